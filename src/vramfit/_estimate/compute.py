"""Compute buffers of a placed model.

In: `Model`, `Placement`, `Context`, the rules of the backends. Out: `Compute`: bytes for
each device, and whether they are what the engine reserves or a bound that is never too low.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .._base.memo import Memo
from .._ggml.backends import Backend
from .._graphs import Unbuildable
from .._llama.cparams import Context
from .._llama.model import Model
from .._llama.placement import Placement
from .bound import compute_bound
from .reserve import Reservation, reserve_context

__all__ = ["Compute", "compute_bytes"]


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
    model: Model, placement: Placement, context: Context, backends: Sequence[Backend]
) -> Compute:
    """The compute buffers that the engine reserves when the context starts.

    Exact where the architecture has a template that covers the model, and the rules of every backend
    were checked against the engine; else a bound. The last answers are remembered: a plan asks for its own again.
    """
    key = (placement, context, tuple(backends))
    return _RECENT.get(model, key, lambda: _compute(model, placement, context, backends))


_RECENT: Final[Memo[Compute]] = Memo(8)


def _compute(model: Model, placement: Placement, context: Context, backends: Sequence[Backend]) -> Compute:
    try:
        found = reserve_context(model, placement, context, backends)
    except Unbuildable as reason:
        bound = compute_bound(model, placement, context, backends)
        return Compute(bound.gpus, bound.host, False, context.flash_attn, note=str(reason), replayed=False)
    note = _unproved(backends, found)
    return Compute(found.needs[:-1], found.needs[-1], not note, found.flash_attn, note)


def _unproved(backends: Sequence[Backend], found: Reservation) -> str:
    """Why replayed figures are not known to be exact; "" where they are."""
    unchecked: dict[str, list[str]] = {}
    for name, why in sorted({(b.name, b.unproved) for b in backends if not b.exact}):
        unchecked.setdefault(why, []).append(name)
    if unchecked:
        return "; ".join(f"the rules of {', '.join(names)} {why}" for why, names in unchecked.items())
    if not found.sure:
        return "the compute capability of a card is not known; the largest figure of all was taken"
    return ""
