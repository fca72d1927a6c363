"""Runs of equal layers, and how few of them stand for all.

In: a `Model`, or the kinds of its layers. Out: small ints and positions. A buffer that has been through
a few equal layers has seen every lifetime that the next ones bring; `steady` proves it for a graph.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from .model import Model

__all__ = ["REPEATS", "Collapsed", "collapse", "layer_kinds"]

REPEATS: Final = 4  # of a run of single layers that stand for all; of longer patterns fewer do
MAX_PERIOD: Final = 8  # layers of a pattern that repeats (one dense in six, one attention in eight)


@dataclass(frozen=True, slots=True)
class Collapsed:
    """Which layers stand for all.

    `cuts` name, for each run that lost repeats, two neighbours of those that were kept: positions in
    `kept` where the first and the second of them begin and where the second ends.
    """

    kept: tuple[int, ...]
    cuts: tuple[tuple[int, int, int], ...]


def collapse(kinds: Sequence[Hashable], repeats: int = REPEATS) -> Collapsed:
    """Cut every run of a pattern to its first and last repeats, an even number dropped between.

    Even, because what one layer hands to the next may alternate between two places.
    """
    kept: list[int] = []
    cuts: list[tuple[int, int, int]] = []
    i = 0
    while i < len(kinds):
        period, count = _longest_run(kinds, i)
        enough = max(3, -(-repeats // period))  # a long pattern settles within itself
        keep = count if count <= enough else enough + (count - enough) % 2
        head = (keep + 1) // 2
        if keep < count:
            at = len(kept) + (head - 1) * period
            cuts.append((at, at + period, at + 2 * period))
        kept += range(i, i + head * period)
        kept += range(i + (count - (keep - head)) * period, i + count * period)
        i += count * period
    return Collapsed(tuple(kept), tuple(cuts))


def _longest_run(kinds: Sequence[Hashable], start: int) -> tuple[int, int]:
    """Period and number of repeats of the pattern that covers most layers from `start`."""
    best = (1, 1)
    for period in range(1, MAX_PERIOD + 1):
        count = 1
        pattern = kinds[start : start + period]
        while kinds[start + count * period : start + (count + 1) * period] == pattern:
            count += 1
        if count > 1 and count * period > best[0] * best[1]:
            best = (period, count)
    return best


def layer_kinds(model: Model, on_host: Sequence[bool]) -> tuple[int, ...]:
    """A number for each layer; layers with the same number need the same compute buffer.

    `on_host` says for each of `model.weights` whether it stays in host memory.
    """
    weights: list[list[object]] = [[] for _ in model.layers]
    for weight, host in zip(model.weights, on_host, strict=True):
        if isinstance(weight.home, int):
            suffix = weight.tensor.name.removeprefix(f"blk.{weight.home}.")
            copied = weight.tensor.type if host else None  # a weight of a card is never in a compute buffer
            weights[weight.home].append((suffix, weight.tensor.shape, copied))
    numbers: dict[object, int] = {}
    kinds = []
    for layer, tensors in zip(model.layers, weights, strict=True):
        key = (replace(layer, index=0), tuple(tensors))
        kinds.append(numbers.setdefault(key, len(numbers)))
    return tuple(kinds)
