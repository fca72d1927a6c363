"""What the engine reserves when a context starts: which fused operations it uses, which graphs it builds.

In: a `Prepared` model, `Placement`, `Context`, `Settings`, the rules of the backends. Out: a `Schedule`
for each reservation, ready for the allocator. Source: `llama_context::sched_reserve` and
`resolve_fused_ops` (llama-context.cpp:507-767). Raises `OutsideTemplate` where the template does not reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..backends import Backend, pad
from ..context import Context
from ..placement import Placement
from ..scheduler import PIPELINE_COPIES, Schedule, schedule
from ..settings import Settings
from .build import Instance, Prepared, build
from .dims import FUSED, Run
from .expressions import OutsideTemplate

__all__ = ["Reservation", "pipeline_copies", "reservations", "resolve_fused", "runs"]

# Which operation is probed with how many tokens a sequence, in the engine's order (llama-context.cpp:42-82).
_PROBES = (
    ("gated_delta_net", 1),
    ("gated_delta_net", 16),
    ("lightning_indexer", 1),
    ("dsv4_hc_pre", 1),
    ("dsv4_hc_comb", 1),
    ("dsv4_hc_post", 1),
)


@dataclass(frozen=True, slots=True)
class Reservation:
    """One of the graphs that are reserved, as built and as scheduled."""

    run: Run
    instance: Instance
    schedule: Schedule


def pipeline_copies(placement: Placement, settings: Settings, backends: Sequence[Backend]) -> int:
    """How many copies of its inputs a graph gets: several with pipeline parallelism (llama-context.cpp:428-455)."""
    pipelined = (
        placement.n_devices > 1
        and min(placement.layers) >= 0
        and settings.split_mode == "layer"
        and settings.offload_kqv
        and not settings.cpu_tensors
        and all(b.async_events for b in backends)
    )
    return PIPELINE_COPIES if pipelined else 1


def resolve_fused(
    prepared: Prepared, placement: Placement, context: Context, settings: Settings, backends: Sequence[Backend]
) -> tuple[bool, frozenset[str]]:
    """Whether flash attention is used, and which fused operations: those that run where their layer is."""
    start = Run(context, context.n_seq_max, context.n_seq_max, context.n_seq_max, context.flash_attn != "off")
    start = replace(start, embeddings=settings.embeddings)
    if context.flash_attn == "auto" and not _in_place("flash_attn_ext", 1, start, prepared, placement, settings, backends):
        start = replace(start, flash_attn=False)
    present = {x.op for b in prepared.template.blocks for x in b.lines} & FUSED
    fused = frozenset(present)
    for op, n_tokens in _PROBES:
        if op in fused:
            run = replace(start, fused=fused)
            if not _in_place(op, n_tokens, run, prepared, placement, settings, backends):
                if op == "gated_delta_net" and n_tokens > 1:
                    raise OutsideTemplate("gated delta net is fused for single tokens only")
                fused -= {op}
        elif op == "gated_delta_net" and n_tokens > 1 and op in present:
            run = replace(start, fused=fused | {op})
            if _in_place(op, n_tokens, run, prepared, placement, settings, backends):
                raise OutsideTemplate("gated delta net is fused for batches only")
    return start.flash_attn, fused


def _in_place(
    op: str,
    n_tokens: int,
    run: Run,
    prepared: Prepared,
    placement: Placement,
    settings: Settings,
    backends: Sequence[Backend],
) -> bool:
    """Whether every node of a fused operation lands on the device of its layer."""
    n = n_tokens * run.n_seqs
    instance = build(prepared, replace(run, n_tokens=n, n_outputs=n), placement)
    plan = schedule(instance.graph, backends, op_offload=settings.op_offload)
    where = dict(plan.nodes)
    host = len(backends)
    for index, layer, name in instance.fused:
        device = placement.layers[layer]
        if name == op and where[index] != (device if device >= 0 else host):
            return False
    return True


def runs(prepared: Prepared, context: Context, settings: Settings, flash_attn: bool, fused: frozenset[str]) -> tuple[Run, ...]:
    """The reservations that differ: prompt, generation, and where the engine does so the prompt of one sequence."""
    n_seqs = context.n_seq_max
    n_tokens = min(context.n_ctx, context.n_ubatch)
    prompt = Run(
        context, pad(n_tokens, n_seqs), n_seqs, min(n_tokens, context.n_outputs_max), flash_attn, settings.embeddings, fused
    )
    found = (prompt, replace(prompt, n_tokens=n_seqs, n_outputs=n_seqs))
    if prepared.template.one_sequence and n_seqs > 1:
        return (*found, replace(prompt, n_tokens=n_tokens, n_seqs=1))
    return found


def reservations(
    prepared: Prepared,
    placement: Placement,
    context: Context,
    settings: Settings,
    backends: Sequence[Backend],
    layers: Sequence[int] | None = None,
) -> tuple[Reservation, ...]:
    """Every reservation, over all layers or over those given."""
    flash_attn, fused = resolve_fused(prepared, placement, context, settings, backends)
    n_copies = pipeline_copies(placement, settings, backends)
    found = []
    for run in runs(prepared, context, settings, flash_attn, fused):
        instance = build(prepared, run, placement, layers)
        plan = schedule(instance.graph, backends, n_copies=n_copies, op_offload=settings.op_offload)
        found.append(Reservation(run, instance, plan))
    return tuple(found)
