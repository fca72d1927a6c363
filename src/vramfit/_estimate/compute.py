"""Compute buffers of a placed model.

In: `Model`, `Placement`, `Context`, the rules of the backends. Out: `Compute`: bytes for
each device, and whether they are what the engine reserves or a bound that is never too low.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    if bound:
        return _at_most(model, placement, context, backends)
    try:
        found = reserve_context(model, placement, context, backends)
    except Unbuildable as reason:  # a sum, because a plan asks hundreds of times
        sums = compute_bound(model, placement, context, backends)
        return Compute(sums.gpus, sums.host, False, context.flash_attn, note=str(reason), replayed=False)
    assumed = f"the architecture is assumed to be {model.assumed}" if model.assumed else ""
    note = assumed or _unproved(model, backends, found, context)
    needs = _of_era(found.needs, model, placement, context, backends)
    return Compute(needs[:-1], needs[-1], not note, found.flash_attn, note)


def _at_most(model: Model, placement: Placement, context: Context, backends: Sequence[Backend]) -> Compute:
    """The bound: from the model's own graph where that is known, else from a stand-in, at last a sum."""
    question, found, flash_attn = (
        (model, placement, context, backends),
        list[tuple[int, ...]](),
        context.flash_attn,
    )
    for stand_in in (False, True):
        if stand_in and found and not model.assumed:
            break
        try:
            reserved = reserve_at_most(*question, stand_in=stand_in)
        except (Unbuildable, EngineRefusal):
            continue
        found.append(reserved.needs)
        flash_attn = reserved.flash_attn
    if not found:
        sums = compute_bound(*question)
        found.append((*sums.gpus, sums.host))
    *gpus, host = _of_era(tuple(map(max, zip(*found, strict=True))), *question)
    return Compute(tuple(gpus), host, False, flash_attn, "a bound was asked for", replayed=False)


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


def _unproved(model: Model, backends: Sequence[Backend], found: Reservation, context: Context) -> str:
    """Why replayed figures are not known to be exact; "" where they are."""
    unchecked: dict[str, list[str]] = {}
    for name, why in sorted({(b.name, b.unproved) for b in backends if not b.exact}):
        unchecked.setdefault(why, []).append(name)
    if unchecked:
        return "; ".join(f"the rules of {', '.join(names)} {why}" for why, names in unchecked.items())
    if not found.sure:
        return "the compute capability of a card is not known; the largest figure of all was taken"
    if found.unmeasured:
        return found.unmeasured
    largest = max((w.tensor.n_bytes for w in model.weights), default=0)
    if any(b.max_tensor and largest > b.max_tensor for b in backends):
        return "a tensor is larger than a card takes; what the host holds for it is not measured"
    return context.era.why
