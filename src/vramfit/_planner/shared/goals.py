"""Maximise: find the furthest of a row of contexts, each at least that before it, that some placement carries.

In: a `Packing`, goals (the contexts of all models at each step of the row). Out: how far it goes, and the placement. As for one
model (see `search`), guesses find a step that fits, and floors of compute buffers, which never fall, rule out what lies above.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from ..._base.progress import Bar
from ..search import last_where
from .packing import Contexts, Packing, Placement
from .spots import Bound

__all__ = ["Goals", "furthest", "goals"]

_CLIMBS: Final = 12


class Goals(NamedTuple):
    """A row of contexts: `at(i)` for 0 <= i < `length`; from one to the next one model gets one step more, `raised(i)` at `i`."""

    length: int
    at: Callable[[int], Contexts]
    raised: Callable[[int], int]


def goals(
    contexts: Contexts, candidates: Sequence[range], worth: Sequence[float], growing: Sequence[int]
) -> Goals:
    """Make the row in which of the models `growing` that with the smallest share is next; the first is `contexts`.

    `worth` is the tokens of each model that make a share of 1.
    """
    steps = sorted((n / worth[i], i) for i in growing for n in candidates[i][:-1] if n >= contexts[i])
    places = {i: [at for at, (_, own) in enumerate(steps) if own == i] for i in growing}
    first = {i: candidates[i].index(contexts[i]) for i in growing}

    def at(position: int) -> Contexts:
        return tuple(
            candidates[i][first[i] + bisect_left(places[i], position)] if i in first else n
            for i, n in enumerate(contexts)
        )

    return Goals(len(steps) + 1, at, lambda position: steps[position - 1][1])


def furthest(
    packing: Packing, goals: Goals, low: int, placed: Placement | None
) -> tuple[int, Placement | None]:
    """Find the last of the goals that fits, and a placement; `low` is known to fit with `placed`, -1 and None: nothing is."""
    with Bar("plan") as bar:
        low, placed = _climb(packing, goals, low, placed, bar)
        return _above(packing, goals, low, placed, bar)


def _climb(
    packing: Packing, goals: Goals, low: int, placed: Placement | None, bar: Bar
) -> tuple[int, Placement | None]:
    """Guess upwards: find a goal that fits, seldom far below the last."""
    for _ in range(_CLIMBS):
        bar.advance()
        at = last_where(lambda i: _may(packing, goals.at(i), Bound.PROBABLY), low, goals.length - 1)
        found = packing.find(goals.at(at), Bound.PROBABLY) if at > low else None
        if found is None:
            break
        if packing.fits(found, goals.at(at)):
            low, placed = at, found
    return low, placed


def _may(packing: Packing, contexts: Contexts, bound: Bound) -> bool:
    return packing.find(contexts, bound) is not None


def _above(
    packing: Packing, goals: Goals, low: int, placed: Placement | None, bar: Bar
) -> tuple[int, Placement | None]:
    """Prove which goal above `low` is the last that fits: each round rules some out, or learns what was not known.

    Floors of the next goal are learned first: where they leave it no room, they leave none above. As long as the next one
    fits, others are tried further and further off.
    """
    stride = 1
    while low + 1 < goals.length and (found := packing.find(goals.at(low + 1), Bound.AT_LEAST)) is not None:
        bar.advance()
        if not packing.has_floors(found, goals.at(low + 1)):
            packing.learn_floors(found, goals.at(low + 1))
        elif packing.fits(found, goals.at(low + 1)):
            ahead = _ahead(packing, goals, low + 1 + stride)
            low, placed, stride = (low + 1 + stride, ahead, 2 * stride) if ahead else (low + 1, found, 1)
        elif packing.is_stuck(found, goals.at(low + 1)):
            break
    at = last_where(lambda i: _may(packing, goals.at(i), Bound.FLOOR), low, goals.length - 1)
    while at > low:
        bar.advance()
        found = packing.find(goals.at(at), Bound.AT_LEAST)
        if found is None:
            at = last_where(lambda i: _may(packing, goals.at(i), Bound.FLOOR), low, at - 1)
        elif not packing.has_floors(found, goals.at(middle := (low + 1 + at) // 2)):
            packing.learn_floors(found, goals.at(middle))
            at = last_where(lambda i: _may(packing, goals.at(i), Bound.FLOOR), low, at)
        elif packing.fits(found, goals.at(at)):
            return at, found
        elif packing.is_stuck(found, goals.at(at)):
            at -= 1
    return low, placed


def _ahead(packing: Packing, goals: Goals, at: int) -> Placement | None:
    """Find a placement for a goal, if there is such a goal, what is known leaves it room, and it fits."""
    found = packing.find(goals.at(at), Bound.AT_LEAST) if at < goals.length else None
    return found if found is not None and packing.fits(found, goals.at(at)) else None
