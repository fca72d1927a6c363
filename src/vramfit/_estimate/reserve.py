"""The reservations of a context's start, replayed on the graph that the architecture builds.

In: `Model`, `Placement`, `Context`, `Settings`, the rules of the backends. Out: bytes of each device's
compute buffer, to the byte. `Unbuildable` where the engine would build none.
Source: `llama_context::sched_reserve` (llama-context.cpp:613-760) and `resolve_fused_ops` (505-582).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple
from weakref import proxy

from .._base.memo import Memo
from .._ggml.backends import Backend
from .._ggml.galloc import allocate, held
from .._ggml.sched import Schedule, node_of, schedule
from .._graphs import Instance, Known, Run, Unbuildable, build, known, one_sequence
from .._llama.cparams import Context
from .._llama.model import Model
from .._llama.params import Settings
from .._llama.placement import HOST, Placement
from .bound import pipeline_copies
from .layer_runs import Collapsed, collapse, layer_kinds
from .periodicity import walk_repeats

__all__ = [
    "Case",
    "Needs",
    "Reservation",
    "needs_of_all",
    "plans",
    "prepare_case",
    "reservations",
    "reserve_context",
]

# Fused operations that the engine gives up when one of them is not scheduled where its layer is, in its order.
_PROBED: Final = ("dsv4_hc_pre", "dsv4_hc_comb", "dsv4_hc_post")
_ATTENTION: Final = "flash_attn_ext"
Needs = tuple[tuple[int, ...], ...]  # bytes of each backend, chunk by chunk


@dataclass(frozen=True, slots=True)
class Reservation:
    """Bytes of each device's compute buffer, the host last, and what flash attention became.

    `sure` is false where a card's compute capability is not known and would change the bytes.
    """

    needs: tuple[int, ...]
    flash_attn: bool
    sure: bool = True


@dataclass(frozen=True, slots=True)
class Case:
    """A placed model under settings, ready to be built at any batch."""

    known: Known
    placement: Placement
    backends: tuple[Backend, ...]
    n_copies: int
    op_offload: bool
    layers: Collapsed
    built: dict[Run, Instance] = field(
        default_factory=dict, compare=False
    )  # of the layers that stand for all

    def instance(self, run: Run, *, whole: bool = False) -> Instance:
        """The graph of a reservation: of the layers that stand for all, or of all."""
        if whole:
            return build(self.known, run, self.placement)
        if run not in self.built:
            self.built[run] = build(self.known, run, self.placement, self.layers.kept)
        return self.built[run]

    def schedule(self, instance: Instance) -> Schedule:
        """The graph over the backends."""
        return schedule(instance.graph, self.backends, n_copies=self.n_copies, op_offload=self.op_offload)


def reserve_context(
    model: Model, placement: Placement, context: Context, settings: Settings, backends: Sequence[Backend]
) -> Reservation:
    """What the engine reserves when it creates this context. Raises `Unbuildable`."""
    case = prepare_case(model, placement, settings, backends)
    prompt, step, last = reservations(case, context, settings)
    made = [_needs(case, run) for run in dict.fromkeys((prompt, step, last))]
    return Reservation(held([x.needs for x in made]), prompt.flash_attn, all(x.sure for x in made))


def plans(
    model: Model, placement: Placement, context: Context, settings: Settings, backends: Sequence[Backend]
) -> list[Schedule]:
    """The schedules of the reservations, all layers built: for explaining, not for speed."""
    case = prepare_case(model, placement, settings, backends)
    return [case.schedule(case.instance(run, whole=True)) for run in reservations(case, context, settings)]


def prepare_case(model: Model, placement: Placement, settings: Settings, backends: Sequence[Backend]) -> Case:
    """The model as its graphs start from it, placed. Raises `Unbuildable`."""
    found = _matched(model)
    n_copies = pipeline_copies(model, settings, backends)
    kinds = _kinds(found, placement)
    return Case(found, placement, tuple(backends), n_copies, settings.op_offload, collapse(kinds, 2))


def _kinds(known: Known, placement: Placement) -> list[tuple[object, ...]]:
    """What a layer of the main graph must share with another one to be its repeat."""
    model = known.model
    alike = layer_kinds(model, [at == HOST for at in placement.weights])
    at, last = placement.layers, len(known.alike) - 1
    return [  # the first layer of a device brings the inputs there
        (kind, alike[i], at[i], placement.caches[i], i == 0 or at[i] != at[i - 1], i == last)
        for i, kind in enumerate(known.alike)
    ]


def _matched(model: Model) -> Known:
    """The model as its graphs start from it; remembered, because a plan asks many times."""
    found = _MATCHED.get(model, None, lambda: replace(known(model), model=proxy(model)))
    return replace(found, model=model)


_MATCHED: Final[Memo[Known]] = Memo(8)


def reservations(case: Case, context: Context, settings: Settings) -> tuple[Run, Run, Run]:
    """The three reservations: a prompt, a step of every slot, a prompt again. Raises `Unbuildable`."""
    n_seqs = context.n_seq_max
    n_tokens = min(context.n_ctx, context.n_ubatch)
    n_outputs = min(n_tokens, context.n_outputs_max)
    step = Run(
        context, n_seqs, n_seqs, n_seqs,
        flash_attn=context.flash_attn != "off", embeddings=settings.embeddings,
    )  # fmt: skip
    step = _resolve(case, step, auto=context.flash_attn == "auto")
    prompt = replace(step, n_tokens=-(-n_tokens // n_seqs) * n_seqs, n_outputs=n_outputs)
    alone = one_sequence(case.known.model.architecture)
    return prompt, step, replace(prompt, n_tokens=n_tokens, n_seqs=1) if alone else prompt


def _resolve(case: Case, step: Run, *, auto: bool) -> Run:
    """Turn off what is not scheduled on the device of its layer, one operation after the other."""
    if auto and not _at_home(case, step, _ATTENTION):
        step = replace(step, flash_attn=False)
    for op in _PROBED:
        if not _at_home(case, step, op):
            step = replace(step, fused=step.fused - {op})
    return step


def _at_home(case: Case, run: Run, op: str) -> bool:
    instance = case.instance(run)
    here = [(tensor, layer) for tensor, layer, name in instance.fused if name == op]
    if not here:
        return True
    cpu = len(case.backends)
    on = dict(case.schedule(instance).nodes)
    layers = case.placement.layers
    return all(on[tensor] == (cpu if layers[layer] == HOST else layers[layer]) for tensor, layer in here)


class _Made(NamedTuple):
    """Chunks of each backend for one reservation."""

    needs: Needs
    sure: bool


def _needs(case: Case, run: Run) -> _Made:
    """One reservation: of the collapsed graph if that is proven to be enough."""
    instance = case.instance(run)
    plan = case.schedule(instance)
    found = needs_of_all(case, instance, plan)
    if found is None:
        found = allocate(case.schedule(case.instance(run, whole=True)))
    return _Made(found, _is_sure(plan))


def _is_sure(plan: Schedule) -> bool:
    """Whether the cards whose kind is not known would all take the same."""
    if not any(b.may_be for b in plan.backends):
        return True
    return all(
        plan.backends[at].is_sure_of(node_of(i, plan.tensors, plan.src[i]))
        for i, at in plan.nodes
        if plan.backends[at].may_be and plan.tensors[i].op in plan.backends[at].scratch
    )


def needs_of_all(case: Case, instance: Instance, plan: Schedule) -> Needs | None:
    """Chunks of each backend for all layers, from those that stand for them; None where that is not proven."""
    cuts = case.layers.cuts
    if not cuts:
        return allocate(plan)
    starts = instance.starts
    found = walk_repeats(
        instance.graph, plan, [(starts[c.first], starts[c.second], starts[c.end]) for c in cuts]
    )
    proven = all(cycle and not cut.dropped % cycle for cycle, cut in zip(found.cycles, cuts, strict=True))
    return found.needs if proven else None
