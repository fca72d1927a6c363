"""Compute buffers of a placed model.

In: `Model`, `Placement`, `Context`, `Settings`, the rules of the backends. Out: `Compute`: bytes for
each device, and whether they are what the engine reserves or a bound that is never too low.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .backends import Backend
from .bound import compute_bound
from .context import Context
from .model import Model
from .placement import Placement
from .settings import Settings

__all__ = ["Compute", "compute_bytes"]


@dataclass(frozen=True, slots=True)
class Compute:
    """Compute buffers in bytes. `note` says why they are a bound when `exact` is false."""

    gpus: tuple[int, ...]
    host: int
    exact: bool
    flash_attn: bool
    note: str = ""


def compute_bytes(
    model: Model, placement: Placement, context: Context, settings: Settings, backends: Sequence[Backend]
) -> Compute:
    """The compute buffers that the engine reserves when the context starts."""
    bound = compute_bound(model, placement, context, settings, backends)
    return Compute(bound.gpus, bound.host, exact=False, flash_attn=context.flash_attn != "off", note="bound")
