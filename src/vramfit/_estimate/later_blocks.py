"""Next-token-prediction blocks that run after the first: what a context's buffers grow by when each of them has.

In: a model with several blocks, and the estimate of their context, whose buffers are reserved for the first block. Out: bytes more
on each device. A block on another card, or of another shape, finds a buffer that is too small, and the engine makes a larger one.
Source: `llama_set_nextn_layer_offset` (speculative.cpp:1543, 1630), `ggml_backend_sched_alloc_splits`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from .._llama.model import Model
from .._llama.speculation import blocks_of

if TYPE_CHECKING:
    from .estimate import Estimate

__all__ = ["GROWS", "later_blocks"]

GROWS: Final = (
    "the engine reserves for the first of the next-token blocks alone, and its buffers grow when a later one runs:"
    " counted as they are then"
)


def later_blocks(
    model: Model, at: Sequence[int], first: Estimate, of_block: Callable[[int], Estimate]
) -> tuple[int, ...]:
    """Bytes by which each card's buffers, and last the host's, exceed those of `first` when all blocks have run.

    `at` is the device of each layer; `of_block` estimates the context as if the block of a number ran.
    """
    more = [0] * (len(first.gpus) + 1)
    for later in map(of_block, _unlike_the_first(model, at)):
        pairs = zip((*later.gpus, later.host), (*first.gpus, first.host), strict=True)
        more = [max(a, b.compute - c.compute) for a, (b, c) in zip(more, pairs, strict=True)]
    return tuple(more)


def _unlike_the_first(model: Model, at: Sequence[int]) -> list[int]:
    """Blocks of each kind that the first is not of: another device, geometry, or other weights."""
    layers = blocks_of(model)
    weights: dict[object, list[str]] = {il: [] for il in layers}
    for w in model.weights:
        if w.home in weights:
            name = w.tensor.name.removeprefix(f"blk.{w.home}.")
            weights[w.home].append(f"{name} {w.tensor.shape} {w.tensor.type.name}")
    found: dict[Hashable, int] = {}
    for block, il in enumerate(layers):
        kind = replace(model.layers[il], index=0), at[il], tuple(sorted(weights[il]))
        found.setdefault(kind, block)
    return [block for block in found.values() if block]
