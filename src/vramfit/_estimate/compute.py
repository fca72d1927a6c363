"""Size the compute buffers of a placed model: replayed where that is possible, else bounded.

In: `Model`, `Placement`, `Context`, the rules of the backends. Out: `Compute`: bytes for
each device, and whether they are what the engine reserves or a bound that is never too low.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from .._base.errors import EngineRefusal
from .._base.memo import Memo
from .._ggml.backends import Backend
from .._graphs import Unbuildable
from .._llama.cparams import Context, more_inputs
from .._llama.model import Model
from .._llama.placement import Placement, pipeline_copies
from .bound import compute_bound
from .reserve import Case, Reservation, reserve_at_most, reserve_context

__all__ = ["Compute", "compute_bytes"]

BY_ADDRESS: Final = 1  # percent: what a buffer may take more in another order; 0.43 was seen
OLDER_GRAPH: Final = 8  # percent: compute buffers of 2024 printed up to 7.7 more
_MEASURED: Final = ("cuda", "hip")  # whose buffers of 2025 are what is replayed


class Compute(NamedTuple):
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
    case: Case | None = None,
) -> Compute:
    """Size the compute buffers that the engine reserves when the context starts; with `bound` no less than these.

    Exact where the graph of the architecture is known and the rules of every backend were checked against the
    engine; else a bound. The last answers are cached: `plan` re-estimates the one it found. `case` is this placed
    model with the graphs that were built of it before, which need not be built again.
    """
    key = (placement, context, tuple(backends), bound)
    return _RECENT.get(model, key, lambda: _compute(model, placement, context, backends, bound, case))


_RECENT: Final[Memo[Compute]] = Memo(8)


def _compute(
    model: Model, placement: Placement, context: Context, backends: Sequence[Backend], bound: bool, case: Case | None
) -> Compute:  # fmt: skip
    if bound:
        return _at_most(model, placement, context, backends)
    try:
        found = reserve_context(model, placement, context, backends, case)
    except Unbuildable as reason:  # a sum, because a plan asks hundreds of times
        sums = compute_bound(model, placement, context, backends)
        return Compute(sums.gpus, sums.host, False, context.flash_attn, note=str(reason), replayed=False)
    assumed = f"the architecture is assumed to be {model.assumed}" if model.assumed else ""
    note = assumed or _unproved(backends, found, context)
    needs = _of_era(_with_spare(found, backends), model, placement, context, backends)
    return Compute(needs[:-1], needs[-1], not note, found.flash_attn, note)


def _with_spare(found: Reservation, backends: Sequence[Backend]) -> tuple[int, ...]:
    """The buffers, raised where a backend's order of nodes hangs on where weights or caches lie."""
    if not found.by_address:
        return found.needs
    shares = (*(BY_ADDRESS if b.orders_by_address else 0 for b in backends), 0)
    return tuple(n + n * share // 100 for n, share in zip(found.needs, shares, strict=True))


def _at_most(model: Model, placement: Placement, context: Context, backends: Sequence[Backend]) -> Compute:
    """Bound the buffers by the model's own graph where that is known, else by a stand-in's, else by a sum over layers."""
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
    era = context.era
    older = era.older_graph or (era.older_order and any(b.name not in _MEASURED for b in backends))
    share = OLDER_GRAPH if older else 0
    return tuple(n + n * share // 100 + more if n else 0 for n in needs)


def _unproved(backends: Sequence[Backend], found: Reservation, context: Context) -> str:
    """Say why replayed sizes are not known to be exact; "" where they are."""
    unchecked: dict[str, list[str]] = {}
    for name, why in sorted({(b.name, b.unproved) for b in backends if not b.exact}):
        unchecked.setdefault(why, []).append(name)
    if unchecked:
        return "; ".join(f"the rules of {', '.join(names)} {why}" for why, names in unchecked.items())
    if not found.sure:
        if any(b.reached_tensor for b in backends):
            return (
                "a tensor is larger than the driver of a card reaches for certain; it was counted on the card"
            )
        return "the compute capability of a card is not known; the largest figure of all was taken"
    return context.era.why
