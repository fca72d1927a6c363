"""Reduce runs of equal layers to the few that determine the compute buffer.

In: a `Model`, or the kinds of its layers. Out: small ints and positions. A buffer that has been through
a few equal layers has seen every lifetime that the next ones bring; `periodicity` proves it for a graph.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Final, NamedTuple

from .._base.memo import Memo
from .._llama.model import Layer, Model

__all__ = ["Collapsed", "Cut", "collapse", "layer_kinds"]

MAX_PERIOD: Final = 12  # layers of a pattern that repeats (one dense in six, one attention in eight)


class Cut(NamedTuple):
    """Where repeats were dropped: positions in `Collapsed.kept`.

    The last two repeats before the gap begin at `first` and `second`; the gap is at `end`.
    """

    first: int
    second: int
    end: int
    dropped: int  # repeats


class Collapsed(NamedTuple):
    """The layers that stand for all, by index, and where others were dropped between them."""

    kept: tuple[int, ...]
    cuts: tuple[Cut, ...]


def collapse(kinds: Sequence[Hashable], repeats: int = 3) -> Collapsed:
    """Drop repeats of equal layers, and then of patterns of layers, behind the first `repeats` of a run.

    At least one layer of the run is left behind the gap, so that what reads the last repeat before it is
    what read it before. The layers dropped are an even number, because what one layer hands to the next
    may alternate between two places.
    """
    items = [_Item(i, 0, 0) for i in range(len(kinds))]
    items = _shorten(items, [(kind, 0) for kind in kinds], range(1, 2), repeats)
    items = _shorten(items, [(kinds[x.layer], x.gap) for x in items], range(2, MAX_PERIOD + 1), repeats)
    cuts = (
        Cut(at + 1 - 2 * x.period, at + 1 - x.period, at + 1, x.gap) for at, x in enumerate(items) if x.gap
    )
    return Collapsed(tuple(x.layer for x in items), tuple(cuts))


class _Item(NamedTuple):
    """A layer that is kept, and how many repeats of the `period` items up to it are dropped behind it."""

    layer: int
    gap: int
    period: int


def _shorten(
    items: Sequence[_Item], alike: Sequence[Hashable], periods: Sequence[int], repeats: int
) -> list[_Item]:
    """Drop repeats from every run of a pattern of one of these lengths."""
    kept: list[_Item] = []
    i = 0
    while i < len(items):
        period, length, dropped = _best_run(alike, i, periods, repeats)
        end = i + repeats * period
        if not dropped or items[end - 1].gap:
            kept.append(items[i])
            i += 1
            continue
        kept += items[i : end - 1]
        kept.append(items[end - 1]._replace(gap=dropped, period=period))
        kept += items[end + dropped * period : i + length]
        i += length
    return kept


def _best_run(
    alike: Sequence[Hashable], start: int, periods: Sequence[int], repeats: int
) -> tuple[int, int, int]:
    """Find the run from `start` that loses most layers: its period, its length in items, and how many repeats it loses."""
    best = (1, 1, 0)
    for period in periods:
        least = start + (repeats + 1) * period + 1  # up to where a run reaches of which one can be dropped
        if least > len(alike) or alike[start : least - period] != alike[start + period : least]:
            continue
        end = least
        while end < len(alike) and alike[end] == alike[end - period]:
            end += 1
        length = min(end, len(alike)) - start
        dropped = max(0, (length - 1) // period - repeats)
        dropped -= dropped * period % 2
        if dropped * period > best[0] * best[2]:
            best = (period, length, dropped)
    return best


def layer_kinds(model: Model, on_host: Sequence[bool]) -> tuple[int, ...]:
    """Number the layers by kind: layers with the same number need the same compute buffer.

    `on_host` says for each of `model.weights` whether it stays in host memory. Cached: a plan asks many times.
    """
    key = tuple(on_host)
    return _KINDS.get(model, key, lambda: _kinds(model, key))


_KINDS: Final[Memo[tuple[int, ...]]] = Memo(16)


def _kinds(model: Model, on_host: Sequence[bool]) -> tuple[int, ...]:
    weights: list[list[object]] = [[] for _ in model.layers]
    for weight, host in zip(model.weights, on_host, strict=True):
        if isinstance(weight.home, int):
            suffix = weight.tensor.name.removeprefix(f"blk.{weight.home}.")
            copied = weight.tensor.type if host else None  # a weight of a card is never in a compute buffer
            weights[weight.home].append((suffix, weight.tensor.shape, copied))
    numbers: dict[object, int] = {}
    layers = zip(map(_but_index, model.layers), map(tuple, weights), strict=True)
    return tuple([numbers.setdefault(layer, len(numbers)) for layer in layers])


_but_index: Final = attrgetter(*(f.name for f in fields(Layer) if f.name != "index"))
