"""Choose which models are loaded, their contexts and their places.

In: `Asked`. Out: the models that fit together, as many as can be, and `Placed`: at the least of their contexts, then as the
objective has it, with as few cards for each as can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Final

from ..._base.errors import EngineRefusal, ModelError, SettingsError
from ..._llama.cparams import physical_batch
from .asked import Asked, Placed
from .goals import furthest, goals
from .packing import Packing
from .spots import ALL_SETS, Spot, spots

__all__ = ["Choosing"]

_UNTRIED: Final = "there are more places for these models than were tried"
_NEIGHBOURS: Final = f"of more than {ALL_SETS} cards, a model was given neighbours only"


@dataclass(slots=True)
class Choosing:
    """What is asked, the places that each model may have, and whether some place was never tried."""

    asked: Asked
    known: dict[int, tuple[Spot, ...]] = field(default_factory=dict)
    incomplete: bool = False

    def _spots(self, i: int) -> tuple[Spot, ...]:
        """The places that a model may have."""
        if i not in self.known:
            tenant = self.asked.tenants[i]
            told = replace(tenant.settings, n_ubatch=physical_batch(tenant.settings))
            own = self.asked.learned.setdefault(i, {})
            self.known[i] = spots(tenant.model, told, self.asked.gpus, self.asked.host, own)
        return self.known[i]

    def _packing(self, loaded: Sequence[int]) -> Packing:
        extra = self.asked.extra(len(loaded))
        rooms = [g.free - self.asked.margin - more for g, more in zip(self.asked.gpus, extra, strict=True)]
        host = None if self.asked.host is None else self.asked.host.free - self.asked.margin
        return Packing(
            [self._spots(i) for i in loaded], rooms, host, thorough=len(self.asked.gpus) <= ALL_SETS
        )

    def together(self) -> tuple[tuple[int, ...], Placed | None]:
        """Find the most models that fit together at the least of their contexts, the first ones first."""
        each = [i for i in range(len(self.asked.tenants)) if self._alone(i)]
        for n in range(len(each), 0, -1):
            for some in combinations(each, n):
                found = self._least(some)
                if found is not None:
                    return some, found
        return (), None

    def _alone(self, i: int) -> bool:
        """Whether a model fits by itself. Raises what the engine refuses of it, with its name where there are others."""
        try:
            return self._least((i,)) is not None
        except (EngineRefusal, SettingsError, ModelError) as e:
            if len(self.asked.tenants) > 1:
                e.args = (f"{self.asked.tenants[i].name}: {e.args[0]}", *e.args[1:])
            raise

    def _least(self, loaded: tuple[int, ...]) -> Placed | None:
        packing = self._packing(loaded)
        least = tuple(self.asked.candidates[i][0] for i in loaded)
        found = packing.carry(least)
        self.incomplete |= found is None and packing.incomplete
        return None if found is None else Placed(least, found)

    def best(self, loaded: tuple[int, ...], least: Placed) -> Placed:
        """Find the contexts that serve the objective best, and a place for each with as few cards as can be."""
        packing, (wanted, placed) = self._packing(loaded), least
        candidates = [self.asked.candidates[i] for i in loaded]
        worth = [self.asked.tenants[i].wished * self.asked.tenants[i].weight for i in loaded]
        growing, at_once = list(range(len(loaded))), self.asked.objective == "share"
        while growing:
            some = growing if at_once else growing[:1]
            row = goals(wanted, candidates, worth, some)
            at, better = furthest(packing, row, 0, placed)
            wanted, placed = row.at(at), better or placed
            done = some if at + 1 == row.length else [row.raised(at + 1)]
            growing = [i for i in growing if i not in done]
        self.incomplete |= packing.incomplete
        return Placed(wanted, packing.carry(wanted) or placed)

    def note(self) -> str:
        """Say why it is not proved that no other place does better; "" where it is."""
        several = len(self.asked.gpus) > ALL_SETS
        return "; ".join((_UNTRIED,) * self.incomplete + (_NEIGHBOURS,) * several)
