"""Next-token-prediction blocks that run after the first: what a context's buffers grow by when each of them has.

In: a model with several blocks, and the estimate of their context, whose buffers are reserved for the first block. Out: bytes more
on each device. A block on another card, or of another shape, finds a buffer that is too small, and the engine makes a larger one.
Source: `llama_set_nextn_layer_offset` (speculative.cpp:1543, 1630), `ggml_backend_sched_alloc_splits`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from .._devices import Gpu
from .._llama.model import Model
from .._llama.params import Settings
from .._llama.placement import place
from .._llama.speculation import next_tokens

if TYPE_CHECKING:
    from .estimate import Estimate

__all__ = ["GROWS", "later_blocks"]

GROWS: Final = (
    "the engine reserves for the first of the next-token blocks alone, and its buffers grow when a later one runs:"
    " counted as they are then"
)


def later_blocks(
    model: Model,
    gpus: Sequence[Gpu],
    settings: Settings,
    first: Estimate,
    estimator: Callable[..., Estimate],
) -> tuple[int, ...]:
    """Bytes by which each card's buffers, and last the host's, exceed those of `first` when all blocks have run."""
    more = [0] * (len(gpus) + 1)
    for block in _unlike_the_first(model, gpus, settings):
        later = estimator(next_tokens(model, block), gpus, settings, bound=not first.exact)
        pairs = zip((*later.gpus, later.host), (*first.gpus, first.host), strict=True)
        more = [max(a, b.compute - c.compute) for a, (b, c) in zip(more, pairs, strict=True)]
    return tuple(more)


def _unlike_the_first(model: Model, gpus: Sequence[Gpu], settings: Settings) -> list[int]:
    """Blocks of each kind that the first is not of: another device, geometry, or other weights."""
    layers = [x.index for x in model.layers if x.is_nextn]
    if len(layers) < 2:
        return []
    at = place(next_tokens(model), gpus, settings).layers
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
