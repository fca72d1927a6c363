"""What a plan of several models asks, and a place that was found for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..._devices import Gpu, Host
from ..segments import Learned
from ..warnings import process_bytes
from .nouns import Tenant
from .packing import Contexts, Placement

__all__ = ["Asked", "Placed"]


class Placed(NamedTuple):
    """Contexts and a place for each of the models that are loaded."""

    contexts: Contexts
    placement: Placement


@dataclass(slots=True)
class Asked:
    """The models with the contexts that each may get, and the machine; `learned` is what was learned of each model on the way."""

    tenants: tuple[Tenant, ...]
    candidates: Sequence[range]
    gpus: tuple[Gpu, ...]
    host: Host | None
    margin: int
    max_ctx: int | None
    objective: str
    learned: dict[int, Learned] = field(default_factory=dict)

    def extra(self, n_loaded: int) -> tuple[int, ...]:
        """Bytes of each card that go to processes beyond the first."""
        return tuple(max(0, n_loaded - 1) * process_bytes(g) for g in self.gpus)
