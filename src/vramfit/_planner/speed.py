"""Bound decoding speed from above: memory bandwidth over the bytes that each token has to read.

In: a `Model`, its `Placement`, the bandwidth of each device. Out: tokens a second that no run of one
sequence exceeds, because every active weight is read once for each token. Computing, launching
and copying come on top: real speeds are lower.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from .._devices import Gpu
from .._llama.model import Home, Model, Weight
from .._llama.placement import HOST, Placement
from .link import chain_seconds

__all__ = ["active_bytes", "active_weights", "decode_limit"]

GB: Final = 10**9
EXPERTS: Final = "exps"  # in the names of stacks of experts
ENCODER: Final = "enc."  # runs once for a prompt, not for each token


def decode_limit(
    model: Model,
    placement: Placement,
    gpus: Sequence[Gpu],
    host_bandwidth_gbs: float | None = None,
    n_tokens: int = 1,
) -> float | None:
    """Bound the tokens per second of one sequence with an empty cache; None where a bandwidth is not known.

    `gpus` are the cards in use, `n_tokens` what a pass gives at most (`speculation.tokens_per_pass`). Devices work one after the other: their times add up, and between machines the network's.
    """
    if not model.has_cache:
        return None  # encoders and diffusion models do not decode token by token
    rates = [g.bandwidth_gbs for g in gpus] + [host_bandwidth_gbs]
    seconds = chain_seconds(model, placement, gpus)
    for size, rate in zip(active_bytes(model, placement), rates, strict=True):
        if size and rate is None:
            return None
        seconds += size / (rate * GB) if rate else 0.0
    return n_tokens / seconds if seconds else None


def active_bytes(model: Model, placement: Placement) -> tuple[int, ...]:
    """Count the bytes of weights that one token reads, for each device in use and last for the host.

    Of a stack of experts, those used; of tables that rows are looked up in, next to nothing: they are
    left out, as are next-token-prediction layers and encoders.
    """
    sums = [0] * (placement.n_devices + 1)
    for weight, device, used, of in active_weights(model, placement):
        sums[device] += weight.tensor.n_bytes * used // of
    assert HOST == -1  # the last sum
    return tuple(sums)


def active_weights(model: Model, placement: Placement) -> Iterator[tuple[Weight, int, int, int]]:
    """Each weight that a token runs through, once: its device, and which part of it, as `used` of so many."""
    counted: set[str] = set()
    for weight, device in zip(model.weights, placement.weights, strict=True):
        name = weight.tensor.name
        if weight.home is Home.INPUT or name.startswith(ENCODER) or (weight.duplicate and name in counted):
            continue
        counted.add(name)
        used, of = _part(model, weight)
        if used:
            yield weight, device, used, of


def _part(model: Model, weight: Weight) -> tuple[int, int]:
    tensor = weight.tensor
    if isinstance(weight.home, Home):
        return 1, 1
    layer = model.layers[weight.home]
    if layer.is_nextn:
        return 0, 1
    if EXPERTS not in tensor.name or not tensor.n_bytes:
        return 1, 1
    stack = tensor.shape[-1]  # chunks that several experts share are a stack of their own: one at least
    return layer.n_expert_used if stack == model.n_expert else 1, stack
