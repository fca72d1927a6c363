"""Replay the reservations of a context's start on the graph that its architecture builds.

In: `Model`, `Placement`, `Context`, the rules of the backends. Out: bytes of each device's
compute buffer, to the byte. `Unbuildable` where the engine would build none.
Source: `llama_context::sched_reserve` (llama-context.cpp:613-760) and `resolve_fused_ops` (505-582).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple
from weakref import proxy

from .._base.memo import Memo
from .._ggml.backends import Backend
from .._ggml.galloc import allocate, held, largest
from .._ggml.graph import NONE, WEIGHT
from .._ggml.sched import Schedule, node_of, schedule
from .._graphs import Instance, Known, Run, build, know, one_sequence
from .._llama.cparams import Context, prompt_tokens
from .._llama.model import Home, Model
from .._llama.placement import HOST, Placement, pipeline_copies
from .layer_runs import Collapsed, collapse, layer_kinds
from .periodicity import walk_repeats

__all__ = [
    "Case",
    "Needs",
    "Reservation",
    "is_by_address",
    "is_sure",
    "needs_of_all",
    "plans",
    "prepare_case",
    "reservations",
    "reserve_at_most",
    "reserve_context",
]

# Fused operations that the engine gives up when one of them is not scheduled where its layer is, in its order.
_PROBED: Final = ("dsv4_hc_pre", "dsv4_hc_comb", "dsv4_hc_post")
_ATTENTION: Final = "flash_attn_ext"
Needs = tuple[tuple[int, ...], ...]  # bytes of each backend, chunk by chunk


class Reservation(NamedTuple):
    """Bytes of each device's compute buffer, the host last, and what flash attention became.

    `sure` is false where a card's compute capability, or how large a tensor it reaches, is not known and would change the bytes.
    """

    needs: tuple[int, ...]
    flash_attn: bool
    sure: bool = True
    by_address: bool = False  # whether the order of nodes hangs on where weights or caches lie


class Case:
    """A placed model whose graphs can be built for any batch.

    It keeps the graphs that it has built, since probes and reservations ask for the same ones, and lives no
    longer than the question that it was made for. Steps of `ladder` say which layers stand for all: few, more, and
    last all themselves.
    """

    def __init__(
        self,
        model: Model,
        placement: Placement,
        backends: Sequence[Backend],
        *,
        op_offload: bool,
        stand_in: bool = False,
        taps: tuple[int, ...] = (),
    ) -> None:
        self.known = _matched(model, stand_in)
        self.placement = placement
        self.backends = tuple(backends)
        self.n_copies = pipeline_copies(placement, backends)
        self.ladder = _ladder(model, placement, _kinds(self.known, placement, taps))
        self._op_offload = op_offload
        self._made: dict[tuple[Run, int], tuple[Instance, Schedule]] = {}

    def graph(self, run: Run, step: int = 0) -> tuple[Instance, Schedule]:
        """Build and schedule the graph of a reservation, with the layers of one step of the ladder."""
        if (run, step) not in self._made:
            instance = build(self.known, run, self.placement, self.ladder[step].kept)
            self._made[run, step] = instance, self.schedule(instance)
        return self._made[run, step]

    def schedule(self, instance: Instance) -> Schedule:
        """Schedule a graph over the backends."""
        return schedule(instance.graph, self.backends, n_copies=self.n_copies, op_offload=self._op_offload)


def reserve_context(
    model: Model,
    placement: Placement,
    context: Context,
    backends: Sequence[Backend],
    case: Case | None = None,
) -> Reservation:
    """Replay what the engine reserves when it creates this context, to the byte. Raises `Unbuildable`.

    `case` is this placed model if graphs of it were built before.
    """
    return _reserved(case or prepare_case(model, placement, context, backends), context, _needs)


def reserve_at_most(
    model: Model, placement: Placement, context: Context, backends: Sequence[Backend], *, stand_in: bool
) -> Reservation:
    """Bound from above what the engine reserves when it creates this context. Raises `Unbuildable`.

    From the model's own graph, with whatever is more: results that take over the memory of their sources, or
    that never do. With `stand_in` from a graph that holds more than the model's own, whatever that is.
    """
    case = Case(
        model, placement, backends, op_offload=context.op_offload, stand_in=stand_in, taps=context.taps
    )
    if stand_in:
        return _reserved(case, context, _needs_with_gap)
    exact, loose = (_reserved(case, context, needs) for needs in (_needs, _needs_apart))
    return exact._replace(needs=tuple(map(max, exact.needs, loose.needs)))


def _reserved(case: Case, context: Context, needs: Callable[[Case, Run], Needs]) -> Reservation:
    prompt, step, last = reservations(case, context)
    runs = (prompt, step, last)
    made = {run: needs(case, run) for run in dict.fromkeys(runs)}
    # the last may be the first again: a buffer in several chunks need not be the larger of two
    found = held([made[run] for run in runs])
    graphs = [case.graph(run)[1] for run in made]
    sure, by_address = all(map(is_sure, graphs)), any(map(is_by_address, graphs))
    return Reservation(found, prompt.flash_attn, sure, by_address)


def plans(
    model: Model, placement: Placement, context: Context, backends: Sequence[Backend]
) -> list[Schedule]:
    """Schedule the graphs of the reservations with all layers built: for explaining, not for speed."""
    case = prepare_case(model, placement, context, backends)
    return [case.graph(run, -1)[1] for run in reservations(case, context)]


def prepare_case(model: Model, placement: Placement, context: Context, backends: Sequence[Backend]) -> Case:
    """Prepare a placed model, for contexts of all lengths. Raises `Unbuildable`."""
    return Case(model, placement, backends, op_offload=context.op_offload, taps=context.taps)


def _ladder(model: Model, placement: Placement, kinds: Sequence[Hashable]) -> tuple[Collapsed, ...]:
    """Choose the layers to build: few, more where that may prove more, and last all of them."""
    everything = Collapsed(tuple(range(len(kinds))), ())
    few, more = collapse(kinds, 2), collapse(kinds, 3)
    if more.cuts and _copies_from_host(model, placement):
        few = more
    return tuple(dict.fromkeys(x for x in (few, more, everything) if x.cuts or x is everything))


def _copies_from_host(model: Model, placement: Placement) -> bool:
    """Whether layers on cards need what is on the host: then often not the second but the third brings nothing new."""
    weights = zip(model.weights, placement.weights, strict=True)
    return not placement.offload_kqv or any(at == HOST and w.home is not Home.INPUT for w, at in weights)


def _kinds(known: Known, placement: Placement, taps: tuple[int, ...] = ()) -> list[tuple[object, ...]]:
    """List what each layer of the main graph must share with another one to be its repeat."""
    model = known.model
    alike = layer_kinds(model, [at == HOST for at in placement.weights])
    at, last = placement.layers, len(known.alike) - 1
    return [  # the first layer of a device brings the inputs there
        (kind, alike[i], at[i], placement.caches[i], i == 0 or at[i] != at[i - 1], i == last, i + 1 in taps)
        for i, kind in enumerate(known.alike)
    ]


def _matched(model: Model, stand_in: bool) -> Known:
    """Prepare the model for its graphs; cached, because a plan asks many times."""
    found = _MATCHED.get(model, stand_in, lambda: replace(know(model, stand_in=stand_in), model=proxy(model)))
    return replace(found, model=model)


_MATCHED: Final[Memo[Known]] = Memo(8)


def reservations(case: Case, context: Context) -> tuple[Run, Run, Run]:
    """List the three batches that the engine reserves for: a prompt, one token of every slot, a prompt again. Raises `Unbuildable`."""
    n_seqs = context.n_seq_max
    step = Run(
        context, n_seqs, n_seqs, n_seqs,
        flash_attn=context.flash_attn, embeddings=context.embeddings,
    )  # fmt: skip
    step = _resolve(case, step, auto=context.auto_fa)
    n_tokens = prompt_tokens(context, one_sequence=True)
    n_outputs = min(n_tokens, context.n_outputs_max)
    prompt = step._replace(n_tokens=prompt_tokens(context), n_outputs=n_outputs)
    alone = one_sequence(case.known)
    return prompt, step, prompt._replace(n_tokens=n_tokens, n_seqs=1) if alone else prompt


def _resolve(case: Case, step: Run, *, auto: bool) -> Run:
    """Turn off each fused operation that is not scheduled on its layer's device, one after the other."""
    if auto and not _at_home(case, step, _ATTENTION):
        step = step._replace(flash_attn=False)
    for op in _PROBED:
        if not _at_home(case, step, op):
            step = step._replace(fused=step.fused - {op})
    return step


def _at_home(case: Case, run: Run, op: str) -> bool:
    instance, plan = case.graph(run)
    here = [(tensor, layer) for tensor, layer, name in instance.fused if name == op]
    if not here:
        return True
    cpu = len(case.backends)
    on = dict(plan.nodes)
    layers = case.placement.layers
    return all(on[tensor] == (cpu if layers[layer] == HOST else layers[layer]) for tensor, layer in here)


def _needs(case: Case, run: Run, *, in_place: bool = True) -> Needs:
    """Size the chunks of each backend for one reservation, from as few layers as are proven to be enough."""
    step = 0
    while True:
        instance, plan = case.graph(run, step)
        found = needs_of_all(case, step, instance, plan if in_place else replace(plan, in_place=False))
        if found is not None:
            return found
        step += 1


def _needs_apart(case: Case, run: Run) -> Needs:
    """`_needs`, when no result is written over a source."""
    return _needs(case, run, in_place=False)


def _needs_with_gap(case: Case, run: Run) -> Needs:
    """`_needs_apart`, and a gap on each device: in another order than this one there is one that just does not hold its largest tensor."""
    gaps = largest(case.graph(run)[1])
    return tuple((*n, gap) if n else () for n, gap in zip(_needs_apart(case, run), gaps, strict=True))


def is_sure(plan: Schedule) -> bool:
    """Tell whether the cards whose kind is not known would all take the same bytes."""
    if not any(b.has_doubts for b in plan.backends):
        return True
    return all(
        plan.backends[at].is_sure_of(node_of(i, plan.tensors, plan.src[i]))
        for i, at in plan.nodes
        if plan.backends[at].reached_tensor
        or (plan.backends[at].may_be and plan.tensors[i].op in plan.backends[at].scratch)
    )


def is_by_address(plan: Schedule) -> bool:
    """Whether a backend whose order compares addresses looks at parts of weights, or at a second cache of a layer: they touch others, or not."""
    if not any(b.orders_by_address for b in plan.backends):
        return False
    tensors = plan.tensors
    here = [tensors[i] for i, at in plan.nodes if plan.backends[at].orders_by_address]
    if any(t.op == "LIGHTNING_INDEXER" for t in here):
        return True
    return any(t.view != NONE and tensors[t.view].usage == WEIGHT for t in here)


def needs_of_all(case: Case, step: int, instance: Instance, plan: Schedule) -> Needs | None:
    """Size the chunks of each backend for all layers from those of a step of the ladder; None where that is not proven.

    The last step, which is all layers, needs no proof.
    """
    cuts = case.ladder[step].cuts
    if not cuts:
        return allocate(plan)
    starts = instance.starts
    found = walk_repeats(
        instance.graph, plan, [(starts[c.first], starts[c.second], starts[c.end]) for c in cuts]
    )
    proven = all(cycle and not cut.dropped % cycle for cycle, cut in zip(found.cycles, cuts, strict=True))
    return found.needs if proven else None
