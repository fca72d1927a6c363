"""Find a place for every model at given contexts: cards and splits under which all of them fit together.

In: the `Spot`s of each model, the room on each card and the host, contexts. Out: a `Placement`, or None. Single cards are
tried before sets of them, so that no model is divided without need.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from ..search import Split
from .spots import Bound, Divided, Spot, fits

__all__ = ["Packing", "Placement"]

_WORK: Final = (
    6_000_000  # splits that are looked at for one plan; beyond, no more than one model is divided at a time
)
_WALK: Final = 3_000  # what a walk over splits counts for
_LISTED: Final = 3  # cards up to which all splits of a model are listed, where two are divided

Placement = tuple[tuple[Spot, Split], ...]  # for each model
Contexts = tuple[int, ...]  # tokens of each model, all slots together


@dataclass(slots=True)
class Packing:
    """All models over all cards. `incomplete` says that some place was never tried, so that None proves nothing; `work` is what is left of `_WORK`."""

    spots: Sequence[Sequence[Spot]]
    rooms: Sequence[int]
    host_room: int | None = None
    incomplete: bool = False
    hint: tuple[Spot, ...] | None = None  # where all fitted last
    work: int = field(default=_WORK, repr=False)
    tried: set[tuple[Placement, Contexts]] = field(default_factory=set, repr=False)

    def find(self, contexts: Contexts, bound: Bound) -> Placement | None:
        """Find a placement that fits if compute buffers are as `bound` says."""
        if not self._host_fits(contexts):
            return None
        if self.hint is not None:
            found = self._at(self.hint, contexts, bound)
            if found is not None:
                return found
        fewest = len(self.spots)
        most = sum(max(len(s.cards) for s in own) for own in self.spots)
        for n_cards in range(fewest, most + 1) if self.rooms else (0,):
            for chosen in self._choices(
                contexts, bound, n_cards, list(self.rooms), self._needed(contexts, bound), ()
            ):
                found = self._at(chosen, contexts, bound)
                if found is not None:
                    return found
        return None

    def _host_fits(self, contexts: Contexts) -> bool:
        """Whether the host has room for what all need there, compute buffers apart."""
        if self.host_room is None:
            return True
        held = (
            own[0].held(None, n_ctx, Bound.FLOOR) for own, n_ctx in zip(self.spots, contexts, strict=True)
        )
        return sum(held) <= self.host_room

    def _needed(self, contexts: Contexts, bound: Bound) -> list[int]:
        """Count no more bytes than each model takes of all cards together, wherever it is."""
        return [
            min(self._size(spot, n_ctx, bound) for spot in own)
            for own, n_ctx in zip(self.spots, contexts, strict=True)
        ]

    def _size(self, spot: Spot, n_ctx: int, bound: Bound) -> int:
        """Count no more bytes than a model takes of all the cards of a set."""
        self.work -= len(spot.cards)
        if spot.split_is_known:
            return sum(spot.taken(spot.only(), n_ctx, bound))
        return spot.least(n_ctx, bound)

    def _choices(
        self, contexts: Contexts, bound: Bound, n_cards: int, rooms: list[int], needed: Sequence[int],
        chosen: tuple[Spot, ...], divided: int = 0,
    ) -> Iterator[tuple[Spot, ...]]:  # fmt: skip
        """List sets of cards, one for each model and `n_cards` in all, for which there may be room.

        `rooms` is what models on cards of their own leave, `divided` what the others take at least, anywhere.
        """
        tenant = len(chosen)
        if tenant == len(self.spots):
            if not n_cards:
                yield chosen
            return
        after = len(self.spots) - tenant - 1
        for spot in self.spots[tenant]:
            rest, n_ctx = n_cards - len(spot.cards), contexts[tenant]
            if rest < after and self.rooms:
                continue
            less = self._less(spot, n_ctx, bound, rooms)
            more = divided if spot.split_is_known else divided + spot.least(n_ctx, bound)
            if less is None or more + sum(needed[tenant + 1 :]) > sum(max(0, r) for r in less):
                continue
            if divided and not spot.split_is_known and self.work < 0:
                self.incomplete = True
                continue
            yield from self._choices(contexts, bound, rest, less, needed, (*chosen, spot), more)

    def _less(self, spot: Spot, n_ctx: int, bound: Bound, rooms: list[int]) -> list[int] | None:
        """The room that a model on one card leaves on each; of a divided one only that there is room in all. None: there is none."""
        if not spot.split_is_known:
            return rooms if spot.least(n_ctx, bound) <= sum(max(0, rooms[c]) for c in spot.cards) else None
        less = list(rooms)
        for card, size in zip(spot.cards, spot.taken(spot.only(), n_ctx, bound), strict=True):
            less[card] -= size
            if less[card] < 0 < size:
                return None
        return less

    def _at(self, chosen: Sequence[Spot], contexts: Contexts, bound: Bound) -> Placement | None:
        """Find splits for sets of cards."""
        rooms: list[int] | None = list(self.rooms)
        divided = [i for i, spot in enumerate(chosen) if not spot.split_is_known]
        for i, spot in enumerate(chosen):
            if i not in divided and rooms is not None:
                rooms = self._less(spot, contexts[i], bound, rooms)
        if rooms is None:
            return None
        splits = self._divided([chosen[i] for i in divided], [contexts[i] for i in divided], bound, rooms)
        if splits is None:
            return None
        own = dict(zip(divided, splits, strict=True))
        found = tuple((spot, own[i] if i in own else spot.only()) for i, spot in enumerate(chosen))
        return found if self._host_holds(found, contexts, bound) else None

    def _divided(
        self, spots: Sequence[Spot], contexts: Sequence[int], bound: Bound, rooms: Sequence[int]
    ) -> tuple[Split, ...] | None:
        """Find a split for each model that is divided: one alone is walked, of several all splits are listed."""
        if not spots:
            return ()
        if len(spots) == 1 and len(spots[0].cards) > 2 and not spots[0].follows:
            self.work -= _WALK
            split = spots[0].walk([rooms[c] for c in spots[0].cards], contexts[0], bound)
            return None if split is None else (split,)
        if any(len(spot.cards) > _LISTED for spot in spots):
            self.incomplete = True
            return None
        listed = [
            Divided(spot.cards, spot.options(n_ctx, bound))
            for spot, n_ctx in zip(spots, contexts, strict=True)
        ]
        if len(spots) == 1:
            own = [rooms[c] for c in spots[0].cards]
            found = next((o for o in listed[0].options if fits(o.sizes, own)), None)
            return None if found is None else (found.split,)
        from .divided import divide

        splits, work = divide(rooms, listed)
        self.work -= work + sum(len(one.options) for one in listed)
        return splits

    def _host_holds(self, placement: Placement, contexts: Contexts, bound: Bound) -> bool:
        """Whether the host has room for a placement, with what is known of its buffers there."""
        if self.host_room is None:
            return True
        sizes = (s.held(split, n, bound) for (s, split), n in zip(placement, contexts, strict=True))
        holds = sum(sizes) <= self.host_room
        self.incomplete |= not holds and any(not s.split_is_known for s, _ in placement)
        return holds

    def fits(self, placement: Placement, contexts: Contexts) -> bool:
        """Tell whether a placement fits, replayed."""
        rooms, host = list(self.rooms), 0
        for (spot, split), n_ctx in zip(placement, contexts, strict=True):
            taken = spot.learn(split, n_ctx)
            host += spot.held(split, n_ctx, Bound.AT_LEAST) if self.host_room is not None else 0
            for card, size in zip(spot.cards, taken, strict=True):
                rooms[card] -= size
                if rooms[card] < 0 < size:
                    return False
        if self.host_room is not None and host > self.host_room:
            return False
        self.hint = tuple(spot for spot, _ in placement)
        return True

    def is_stuck(self, placement: Placement, contexts: Contexts) -> bool:
        """Whether a placement was replayed, and is yet found again: what is on the host does not count where a model is divided."""
        stuck = (placement, contexts) in self.tried
        self.incomplete |= stuck
        self.tried.add((placement, contexts))
        return stuck

    def has_floors(self, placement: Placement, contexts: Contexts) -> bool:
        """Whether floors are known of all of a placement at these contexts."""
        return all(s.has_floors(split, n) for (s, split), n in zip(placement, contexts, strict=True))

    def learn_floors(self, placement: Placement, contexts: Contexts) -> None:
        """Learn the floors of a placement at these contexts."""
        for (spot, split), n_ctx in zip(placement, contexts, strict=True):
            spot.learn_floors(split, n_ctx)

    def carry(self, contexts: Contexts) -> Placement | None:
        """Find a placement that fits, replayed, with as few cards for each model as can be; None: there is none."""
        self.hint = None
        while (found := self.find(contexts, Bound.AT_LEAST)) is not None:
            if self.fits(found, contexts):
                return found
            if self.is_stuck(found, contexts):
                return None
        return None
