"""Find a place for every model at given contexts: cards and splits under which all of them fit together.

In: the `Spot`s of each model, the room on each card and the host, contexts. Out: a `Placement`, or None. Single cards are
tried before sets of them, so that no model is divided without need.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
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


def groups(spots: Sequence[Spot]) -> list[list[int]]:
    """Group sets of cards, by their places, that have cards in common."""
    found: list[tuple[set[int], list[int]]] = []
    for i, spot in enumerate(spots):
        own, members = set(spot.cards), [i]
        for cards, others in [g for g in found if g[0] & own]:
            found.remove((cards, others))
            own, members = own | cards, [*others, *members]
        found.append((own, members))
    return [members for _, members in found]


def _n_divided(chosen: Sequence[Spot]) -> int:
    return sum(not spot.split_is_known for spot in chosen)


def _shares(spot: Spot, chosen: Sequence[Spot]) -> bool:
    """Whether a card of the set has parts of another model that is divided."""
    return any(not other.split_is_known and {*spot.cards} & {*other.cards} for other in chosen)


@dataclass(slots=True)
class Packing:
    """All models over all cards. `incomplete` says that some place was never tried, so that None proves nothing; `work` is what is left of `_WORK`."""

    spots: Sequence[Sequence[Spot]]
    rooms: Sequence[int]
    host_room: int | None = None
    incomplete: bool = False
    hint: tuple[Spot, ...] | None = None  # where all fitted last
    thorough: bool = True  # whether cards that are alike are told apart, and may have parts of several models
    work: int = field(default_factory=lambda: _WORK, repr=False)
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
        needed = self._needed(contexts, bound)
        for apart in (True, False) if self.work > 0 and self.thorough else (True,):
            for n_cards in range(fewest, most + 1) if self.rooms else (0,):
                for chosen in self._choices(contexts, bound, n_cards, list(self.rooms), needed, (), apart):
                    found = self._at(chosen, contexts, bound)
                    if found is not None:
                        return found
        self.incomplete |= self.work <= 0
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
        chosen: tuple[Spot, ...], apart: bool, divided: int = 0,
    ) -> Iterator[tuple[Spot, ...]]:  # fmt: skip
        """List sets of cards, one for each model and `n_cards` in all, for which there may be room.

        With `apart` no card has parts of two models that are divided, without it some card has. `rooms` is what models on cards
        of their own leave, `divided` what the others take at least, anywhere.
        """
        tenant = len(chosen)
        if tenant == len(self.spots):
            if not n_cards and apart == (
                len(groups([s for s in chosen if not s.split_is_known])) == _n_divided(chosen)
            ):
                yield chosen
            return
        after, seen = len(self.spots) - tenant - 1, set[Hashable]()
        for spot in self.spots[tenant]:
            rest, n_ctx = n_cards - len(spot.cards), contexts[tenant]
            if rest < after and self.rooms:
                continue
            less = self._less(spot, n_ctx, bound, rooms)
            more = divided if spot.split_is_known else divided + spot.least(n_ctx, bound)
            if less is None or more + sum(needed[tenant + 1 :]) > sum(max(0, r) for r in less):
                continue
            if apart and not spot.split_is_known and _shares(spot, chosen):
                continue
            if not self.thorough and (like := self._likeness(spot, rooms, chosen)) in seen:
                continue
            self.work -= 1
            seen.add(() if self.thorough else like)
            yield from self._choices(contexts, bound, rest, less, needed, (*chosen, spot), apart, more)

    def _likeness(self, spot: Spot, rooms: Sequence[int], chosen: Sequence[Spot]) -> Hashable:
        """What makes two sets of cards alike: kinds of cards with as much room, and who else has layers there."""
        taken = [tuple(i for i, s in enumerate(chosen) if c in s.cards) for c in spot.cards]
        kinds = [replace(g, name="card", free_bytes=0) for g in spot.question.gpus]
        company = spot.question.model.company
        return (*zip(kinds, (rooms[c] for c in spot.cards), taken, strict=True), company)

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
        """Find a split for each model that is divided, those that share cards together."""
        found: dict[int, Split] = {}
        for group in groups(spots):
            own = [(spots[i], contexts[i]) for i in group]
            splits = self._alone(*own[0], bound, rooms) if len(own) == 1 else self._sharing(own, bound, rooms)
            if splits is None:
                return None
            found |= zip(group, splits, strict=True)
        return tuple(found[i] for i in range(len(spots)))

    def _alone(self, spot: Spot, n_ctx: int, bound: Bound, rooms: Sequence[int]) -> tuple[Split] | None:
        """Find a split for a model that shares its cards with none that is divided."""
        own = [rooms[c] for c in spot.cards]
        if len(spot.cards) > 2 and not spot.follows:
            self.work -= _WALK
            split = spot.walk(own, n_ctx, bound)
            return None if split is None else (split,)
        if len(spot.cards) > _LISTED:
            self.incomplete = True
            return None
        found = next((o for o in spot.options(n_ctx, bound) if fits(o.sizes, own)), None)
        return None if found is None else (found.split,)

    def _sharing(
        self, models: Sequence[tuple[Spot, int]], bound: Bound, rooms: Sequence[int]
    ) -> tuple[Split, ...] | None:
        """Find a split for each of several models that share cards."""
        cards = {c for spot, _ in models for c in spot.cards}
        if any(len(spot.cards) > _LISTED for spot, _ in models):
            self.incomplete = True
            return None
        if sum(spot.least(n_ctx, bound) for spot, n_ctx in models) > sum(max(0, rooms[c]) for c in cards):
            return None
        from .divided import divide

        listed = [Divided(spot.cards, spot.options(n_ctx, bound)) for spot, n_ctx in models]
        splits, work = divide(rooms, listed)
        self.work -= work
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
