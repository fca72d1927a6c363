"""Runs of equal layers, and how few of them stand for all.

In: a `Model`, or the kinds of its layers. Out: small ints and tuples of them. A buffer that has been
through a few equal layers has seen every lifetime that the next one brings: more repeats change
nothing (checked against the engine, see docs/accuracy.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from .model import Model

__all__ = ["REPEATS", "collapse", "kept_layers", "layer_kinds"]

REPEATS: Final = 4  # of a run that stand for the whole run
MAX_PERIOD: Final = 8  # layers of a pattern that repeats (one dense in six, one attention in eight)


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


def kept_layers(kinds: Sequence[int], repeats: int = REPEATS) -> tuple[int, ...]:
    """Indexes of the layers that stand for all: of each periodic run the first and the last repeats."""
    kept: list[int] = []
    i = 0
    while i < len(kinds):
        period, count = _longest_run(kinds, i)
        # an even number is dropped: what one layer hands to the next may alternate between two places
        keep = count if count <= repeats else repeats + (count - repeats) % 2
        head = (keep + 1) // 2
        kept += range(i, i + head * period)
        kept += range(i + (count - (keep - head)) * period, i + count * period)
        i += count * period
    return tuple(kept)


def collapse(kinds: Sequence[int], repeats: int = REPEATS) -> tuple[int, ...]:
    """`kinds` with every long run cut to `repeats`: equal results mean equal compute buffers."""
    return tuple(kinds[i] for i in kept_layers(kinds, repeats))


def _longest_run(kinds: Sequence[int], start: int) -> tuple[int, int]:
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
