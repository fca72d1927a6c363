"""Compute buffers of a placed model.

In: `Model`, `Placement`, `Context`, the rules of the backends. Out: `Compute`: bytes for
each device, and whether they are what the engine reserves or a bound that is never too low.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from .._base.errors import EngineRefusal
from .._base.memo import Memo
from .._ggml.backends import Backend
from .._graphs import Unbuildable
from .._llama.cparams import Context, more_inputs
from .._llama.model import Model
from .._llama.placement import Placement, pipeline_copies
from .bound import compute_bound
from .reserve import Reservation, reserve_at_most, reserve_context

__all__ = ["Compute", "compute_bytes"]

OLDER_GRAPH: Final = 8  # percent: compute buffers of 2024 printed up to 7.7 more
_ASKED: Final = "a bound was asked for"


@dataclass(frozen=True, slots=True)
class Compute:
    """Compute buffers in bytes. `note` says why they are not known to be exact; `replayed` is false for a formula."""

    gpus: tuple[int, ...]
    host: int
    exact: bool
    flash_attn: bool
    note: str = ""
    replayed: bool = True


def compute_bytes(
    model: Model,
    placement: Placement,
    context: Context,
    backends: Sequence[Backend],
    *,
    bound: bool = False,
) -> Compute:
    """The compute buffers that the engine reserves when the context starts, or with `bound` no less than these.

    Exact where the graph of the architecture is known and the rules of every backend were checked against the
    engine; else a bound. The last answers are remembered: a plan asks for its own again.
    """
    key = (placement, context, tuple(backends), bound)
    return _RECENT.get(model, key, lambda: _compute(model, placement, context, backends, bound))


_RECENT: Final[Memo[Compute]] = Memo(8)


def _compute(
    model: Model, placement: Placement, context: Context, backends: Sequence[Backend], bound: bool
) -> Compute:
    why = _ASKED if bound else f"the architecture is assumed to be {model.assumed}" if model.assumed else ""
    try:
        if why:
            found = reserve_at_most(model, placement, context, backends, stand_in=False)
        else:
            found = reserve_context(model, placement, context, backends)
    except Unbuildable as reason:
        return _stand_in(model, placement, context, backends, why or str(reason))
    if model.assumed:
        other = _stand_in(model, placement, context, backends, why)
        found = replace(found, needs=tuple(map(max, found.needs, (*other.gpus, other.host))))
    note = why or _unproved(backends, found, context)
    needs = _of_era(found.needs, model, placement, context, backends)
    return Compute(needs[:-1], needs[-1], not note, found.flash_attn, note)


def _stand_in(
    model: Model, placement: Placement, context: Context, backends: Sequence[Backend], why: str
) -> Compute:
    """The bound where the graph of the architecture is not known: a stand-in's, or if there is none, a sum's."""
    try:
        found = reserve_at_most(model, placement, context, backends, stand_in=True)
    except (Unbuildable, EngineRefusal):
        bound = compute_bound(model, placement, context, backends)
        return Compute(bound.gpus, bound.host, False, context.flash_attn, why, replayed=False)
    needs = _of_era(found.needs, model, placement, context, backends)
    return Compute(needs[:-1], needs[-1], False, found.flash_attn, why, replayed=False)


def _of_era(
    needs: tuple[int, ...],
    model: Model,
    placement: Placement,
    context: Context,
    backends: Sequence[Backend],
) -> tuple[int, ...]:
    """Raise buffers to what builds reserve whose graph is not replayed: never less than was seen."""
    more = more_inputs(model, context) * pipeline_copies(placement, backends)
    share = OLDER_GRAPH if context.era.older_graph else 0
    return tuple(n + n * share // 100 + more if n else 0 for n in needs)


def _unproved(backends: Sequence[Backend], found: Reservation, context: Context) -> str:
    """Why replayed figures are not known to be exact; "" where they are."""
    unchecked = sorted({b.name for b in backends if not b.exact})
    if unchecked:
        return f"the rules of {', '.join(unchecked)} follow the engine's source and are not measured"
    if not found.sure:
        return "the compute capability of a card is not known; the largest figure of all was taken"
    return context.era.why
