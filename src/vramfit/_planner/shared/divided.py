"""Find splits for several models that are divided over the same cards.

In: the room on each card, what every split of every model takes. Out: a split for each, or None. All combinations are tried,
model by model: of what the first ones leave, only what no other choice of theirs exceeds on every card goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..search import Split
from .spots import Divided

__all__ = ["divide"]

_AT_ONCE: Final = 1 << 20  # combinations that are held in memory
_PRUNED: Final = 1 << 12  # leftovers that are compared with each other
Sizes = NDArray[np.int64]


def divide(rooms: Sequence[int], models: Sequence[Divided]) -> tuple[tuple[Split, ...] | None, int]:
    """Find a split for each of the models under which all fit, and say how many combinations were looked at."""
    order = sorted(range(len(models)), key=lambda i: len(models[i].options))
    left, picks, work = np.array([rooms], np.int64), np.zeros((1, 0), np.int64), 0
    for place, i in enumerate(order):
        cards, options = models[i]
        sizes = np.array([o.sizes for o in options], np.int64).reshape(len(options), len(cards))
        work += len(left) * len(options)
        found = list(_pairs(left, list(cards), sizes, once=place == len(order) - 1))
        if not found:
            return None, work
        before, chosen = (np.concatenate(part) for part in zip(*found, strict=True))
        after = left[before]
        after[:, list(cards)] -= sizes[chosen]
        kept = _most(after)
        left, picks = after[kept], np.column_stack((picks[before], chosen))[kept]
    splits = {i: models[i].options[int(at)].split for i, at in zip(order, picks[0], strict=True)}
    return tuple(splits[i] for i in range(len(models))), work


def _pairs(left: Sizes, cards: list[int], sizes: Sizes, *, once: bool) -> Iterator[tuple[Sizes, Sizes]]:
    """List which of what is left has room for which sizes, both by their places, some at a time; with `once` the first alone."""
    step = max(1, _AT_ONCE // max(1, len(sizes)))
    for start in range(0, len(left), step):
        own = left[start : start + step, None, cards]
        before, chosen = np.nonzero(((own >= sizes) | (sizes == 0)).all(axis=2))
        if len(before):
            yield (before[:1] + start, chosen[:1]) if once else (before + start, chosen)
            if once:
                return


def _most(left: Sizes) -> Sizes:
    """Choose, by their places, the rows that no other row exceeds everywhere; of very many, among neighbours only."""
    order = np.lexsort(left.T[::-1])[::-1]
    kept = list[Sizes]()
    for start in range(0, len(order), _PRUNED):
        some = order[start : start + _PRUNED]
        rows, best = left[some], np.ones(len(some), bool)
        for at in range(len(some)):  # in descending order: a row is exceeded by earlier ones alone
            if best[at]:
                best[at + 1 :] &= (rows[at + 1 :] > rows[at]).any(axis=1)
        kept.append(some[best])
    return np.concatenate(kept)
