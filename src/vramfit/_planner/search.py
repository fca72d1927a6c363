"""Search for the best chain of segments: the largest context that fits under any split, or the split that lacks least.

In: `Chains`, that is segments and the room on each card, and contexts to choose from. Out: a context and
layers on each card. Compute buffers are replayed for few splits; the others are ruled out by what is known of
them at least, so that the answer is that of trying every split at every context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

from .._base.progress import Bar
from .segments import Segments

if TYPE_CHECKING:
    from .._estimate.company import CompanyBytes
    from .paired import Paired

__all__ = ["Chains", "Company", "Split", "largest", "last_where", "least_short"]

Split = tuple[int, ...]  # layers on each card in use
Compute = Callable[[int, int, int, int], int]  # device, start, end, context -> bytes
# Context -> what is loaded beside the model; or, if so asked, no more than at any context as large.
Company = Callable[[int, bool], "CompanyBytes"]

_CLIMBS: Final = 12  # guesses at most; proof does without them
_OWN: Final = 2  # splits whose own floors are learned before those of short runs are
_SHORT: Final = 4  # layers
_FEW: Final = 5  # contexts that are replayed one by one
_ABOVE: Final = 8  # part of a context by which another is tried for floors
_STEP: Final = 1 << 20  # bytes to which the least shortfall is found


class Chains(NamedTuple):
    """All splits of the layers over the cards, or the one that the caller fixed; `room` is the bytes that each card may take."""

    segments: Segments | Paired
    room: Sequence[int]
    only: Split | None = None
    company: Company | None = (
        None  # what is loaded beside the model, and not of `segments`, takes of that room
    )

    def rooms(self, n_ctx: int, *, most: bool = False) -> Sequence[int]:
        """Return the room on each card beside a context; with `most` no less than beside any larger one."""
        if self.company is None:
            return self.room
        return [room - size for room, size in zip(self.room, self.company(n_ctx, most).taken, strict=True)]

    def lacks(self, n_ctx: int, *, most: bool = False) -> int:
        """Count the bytes that some card lacks for what is loaded beside the model alone; 0 where that has room."""
        if self.company is None:
            return 0
        found = self.company(n_ctx, most)
        sizes = zip(found.gpus, found.taken, self.room, strict=True)
        return max((size - room for own, size, room in sizes if size > room and own), default=0)

    def find(self, compute: Compute, n_ctx: int, *, most: bool = False) -> Split | None:
        """Find a split that fits every card's room if compute buffers are as `compute` says; None without one.

        With `most` the room is at least that of any larger context.

        Walks the cards and keeps every layer that the cards so far can end at, with the layer it came
        from. Of all starts for an end, the latest takes least; earlier ones are tried too, because a
        compute buffer may be smaller for a segment of other kinds.
        """
        first, last = self.segments.first, self.segments.last
        if self.lacks(n_ctx, most=most):
            return None
        rooms = self.rooms(n_ctx, most=most)
        reached: dict[int, Split] = {first: ()}
        for device, room in enumerate(rooms):
            starts = sorted(reached, reverse=True)
            last_card = device == len(rooms) - 1
            further: dict[int, Split] = {}
            for end in (last,) if last_card else self._ends(device, first, last):
                if starts and end >= starts[0] and not self._has_room(room, device, starts[0], end, n_ctx):
                    break  # nor for more layers
                start = self._start(room, compute, device, starts, end, n_ctx)
                if start is not None:
                    further[end] = (*reached[start], end - start)
            reached = further
        return reached.get(last)

    def _has_room(self, room: int, device: int, start: int, end: int, n_ctx: int) -> bool:
        """Tell whether weights and cache of a segment fit the card's room: if not, those of no longer segment do."""
        return self.segments.fixed(device, start, end, n_ctx) <= max(room, 0)

    def _ends(self, device: int, first: int, last: int) -> Sequence[int]:
        if self.only is None:
            return range(first, last + 1)
        return (first + sum(self.only[: device + 1]),)

    def _start(
        self, room: int, compute: Compute, device: int, starts: Sequence[int], end: int, n_ctx: int
    ) -> int | None:
        """Find the last layer from which a segment up to `end` fits on the card."""
        fixed_bytes = self.segments.fixed
        for start in starts:
            if start > end:
                continue
            fixed = fixed_bytes(device, start, end, n_ctx)
            if fixed > max(room, 0):
                return None
            size = fixed + compute(device, start, end, n_ctx)
            if size <= room or not size:  # an unused card needs no room
                return start
        return None

    def fits(self, split: Split, n_ctx: int) -> bool:
        """Tell whether a split fits every card's room; replayed unless that is known."""
        rooms = self.rooms(n_ctx)
        if self.lacks(n_ctx):
            return False
        if self.segments.holds(split, n_ctx, rooms):
            return True
        sizes = self.segments.learn(split, n_ctx)
        return all(size <= free or not size for size, free in zip(sizes, rooms, strict=True))

    def short(self, split: Split, n_ctx: int) -> int:
        """Count the bytes that the shortest card lacks; replayed."""
        sizes = self.segments.learn(split, n_ctx)
        rooms = self.rooms(n_ctx)
        lacking = max((size - free for size, free in zip(sizes, rooms, strict=True) if size), default=0)
        return max(lacking, self.lacks(n_ctx)) if self.company else lacking

    def widened(self, n_bytes: int) -> Chains:
        """Return the same with `n_bytes` more room on every card."""
        return self._replace(room=[r + n_bytes for r in self.room])


def largest(chains: Chains, candidates: range) -> tuple[int, Split] | None:
    """Find the largest of the contexts that fits under any split, and a split under which it does; None if none fits.

    Guesses find a context that fits; then every larger one is ruled out, or found to fit. The answer was
    replayed as a whole. Were that to say more than its segments did, they are known better now: once for each
    context and split at most.
    """
    with Bar("plan") as bar:
        while True:
            best, split = _climb(chains, candidates, bar)
            at, better = _above(chains, candidates, best, bar)
            if better is not None:
                best, split = at, better
            if split is None or chains.short(split, candidates[best]) <= 0:
                return None if split is None else (candidates[best], split)


def _climb(chains: Chains, candidates: range, bar: Bar) -> tuple[int, Split | None]:
    """Guess upwards: find a context that fits, seldom far below the largest, by its position, and its split; -1 if none was found.

    What is probable may come from other settings. Where nothing fits by that, a split is replayed that would
    without compute buffers.
    """
    best, found = -1, None
    learned = len(candidates) == 1
    for _ in range(_CLIMBS):
        bar.advance()
        at, split = _furthest(chains, chains.segments.probably, candidates, best)
        if split is None and not learned:
            at, split = _furthest(chains, _nothing, candidates, best)
        if split is None:
            break
        learned = True
        if chains.fits(split, candidates[at]):
            best, found = at, split
    return best, found


def _furthest(chains: Chains, compute: Compute, candidates: range, best: int) -> tuple[int, Split | None]:
    """Find the last position above `best` that fits if compute buffers are as `compute` says, and its split; `best` and None for none."""
    at = last_where(lambda at: chains.find(compute, candidates[at]) is not None, best, len(candidates) - 1)
    return at, chains.find(compute, candidates[at]) if at > best else None


def _nothing(device: int, start: int, end: int, n_ctx: int) -> int:
    return 0


def _above(chains: Chains, candidates: range, best: int, bar: Bar) -> tuple[int, Split | None]:
    """Prove which position above `best` is the largest that fits, and its split; `best` and None for none.

    From the top down: lower bounds, which never fall as the context grows, leave out all but a few
    contexts; of those that remain, every split that may fit is replayed. Each round lowers `at`, or learns
    floors that were not known, or sizes at `at` of a split that then is ruled out or holds: so it ends.
    """
    segments = chains.segments
    at = len(candidates) - 1
    floored = 0

    def may_fit(position: int) -> bool:
        def least(device: int, start: int, end: int, n_ctx: int) -> int:
            return segments.least(device, start, end, candidates[position : at + 1])

        return chains.find(least, candidates[position], most=True) is not None

    while (at := last_where(may_fit, best, at)) > best:
        bar.advance()
        split = chains.find(segments.at_least, candidates[at])
        if split is None:
            at -= 1
        elif segments.holds(split, candidates[at], chains.rooms(candidates[at])):
            return at, split
        elif not segments.has_floors(split, candidates[best + 1]):
            for chosen in _short(split) if floored == _OWN else (split,):
                segments.learn_floors(chosen, candidates[best + 1])
            floored += 1
        elif (higher := _without_floors(chains, split, candidates, best + 1, at)) is not None:
            segments.learn_floors(split, candidates[higher])
        else:
            _learn(chains, split, candidates[best + 1 :], candidates[at])
    return best, None


def _without_floors(chains: Chains, split: Split, candidates: range, low: int, at: int) -> int | None:
    """Choose the position at which floors of a split may rule out most of what lies above; None if they are known there.

    A buffer is not much larger than its floor, so that is not far above the largest context that fits.
    """
    if at - low < _FEW:
        return None
    step = max(1, low // _ABOVE)
    middle = low + min(step, at - low) // 2
    steps = (low + (step << i) for i in range((at - low).bit_length()))
    further = [position for position in steps if position < at]
    unknown = (p for p in (*further, middle) if not chains.segments.has_floors(split, candidates[p]))
    return next(unknown, None)


def _short(split: Split) -> Iterator[Split]:
    """List splits with few layers on one card each: their floors hold for all longer runs of the same layers."""
    for device, count in enumerate(split):
        if count > _SHORT:
            other = device + 1 if device + 1 < len(split) else device - 1
            moved = list(split)
            moved[device], moved[other] = _SHORT, moved[other] + count - _SHORT
            yield tuple(moved)


def _learn(chains: Chains, split: Split, contexts: range, n_ctx: int) -> None:
    """Learn how much a split takes at `n_ctx`, and at as many of the contexts around it as come with it."""
    segments = chains.segments
    if (
        not segments.never_falls
        and n_ctx not in contexts[:_FEW]
        and segments.learn_lines(split, contexts, n_ctx)
    ):
        return
    segments.learn(split, n_ctx)
    if segments.never_falls:
        last_where(lambda i: chains.fits(split, contexts[i]), -1, contexts.index(n_ctx))


def last_where(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Bisect for the last position above `low` and up to `high` where `holds`, else `low`; once it fails it fails ever after."""
    if high > low and holds(high):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low


def least_short(chains: Chains, n_ctx: int) -> Split:
    """Find the split under which the shortest card lacks least, to a MiB.

    Each round asks how many bytes more each card would need for what is known at least, and replays
    the split that would fit then, until one lacks no more than that. A round that goes on has learned the floors
    of a split, or replayed one, that no round before did. There are finitely many: so it ends, whatever the
    replays say.
    """
    with Bar("plan") as bar:
        return _least_short(chains, n_ctx, bar)


def _least_short(chains: Chains, n_ctx: int, bar: Bar) -> Split:
    segments = chains.segments
    best: Split = (segments.last - segments.first, *[0] * (len(chains.room) - 1))
    most = chains.short(best, n_ctx)
    tried, floored = {best}, {best}
    while True:
        bar.advance()
        at_least = cache(segments.at_least)  # what is known changes between rounds alone

        def with_less(steps: int, most: int = most, at_least: Compute = at_least) -> Split | None:
            return chains.widened(most - steps * _STEP).find(at_least, n_ctx)

        steps = last_where(lambda n: with_less(n) is not None, 0, most // _STEP + 1)
        split = with_less(steps)
        if not steps or split is None or split in tried:
            return best
        if split not in floored and not segments.has_floors(split, n_ctx):
            floored.add(split)  # they hold for longer runs, too
            segments.learn_floors(split, n_ctx)
            continue
        tried.add(split)
        short = chains.short(split, n_ctx)
        if short < most:
            best, most = split, short
