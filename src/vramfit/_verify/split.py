"""The layers of each card, where the log says only how many bytes lie there.

The engine places layers in order, so a split is where one card ends and the next begins. Caches take whole layers and
so tell it best; weights may be quantized otherwise than in the header at hand, so that their shares count and not bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final

from .._devices import Gpu
from .._ggml.graph import HOST
from .._llama.cparams import resolve
from .._llama.eras import era_of, rules_of
from .._llama.memory import layer_context_bytes
from .._llama.model import Home, Model
from .._llama.params import Settings
from .._llama.placement import place, place_split
from .._logs import Load

__all__ = ["split_of"]

_CONTEXT_WEIGHT: Final = 20.0  # how much a share of the cache counts against one of the weights


def split_of(load: Load, model: Model, gpus: Sequence[Gpu], settings: Settings) -> tuple[int, ...] | None:
    """How many layers each card has, in order; None where one card has all, or the engine's own split does as printed."""
    if len(gpus) < 2:
        return None
    printed = _printed(load, model)
    if printed:
        return printed
    return _found(load, model, gpus, settings)


def _printed(load: Load, model: Model) -> tuple[int, ...] | None:
    """The layers that were printed one by one, where all were."""
    n = model.n_layer + 1
    if any(i not in load.layers for i in range(n)):
        return None
    counts = [sum(load.layers[i] == place for i in range(n)) for place in load.places]
    return tuple(counts) if sum(counts) else None


def _found(load: Load, model: Model, gpus: Sequence[Gpu], settings: Settings) -> tuple[int, ...] | None:
    n_on = model.n_layer + 1 if settings.n_gpu_layers < 0 else min(settings.n_gpu_layers, model.n_layer + 1)
    # with all these layers on one card: what each layer brings
    alone = place_split(model, gpus[:1], settings, [n_on])
    brought = _bytes_of_layers(model, gpus, settings)
    on = [i for i, device in enumerate(alone.layers) if device != HOST]
    if not on:
        return None
    weights = list(accumulate((brought[0][i] for i in on), initial=0))
    caches = list(accumulate((brought[1][i] for i in on), initial=0))
    shares = [_shares(load, place) for place in load.places]
    measured_w, measured_c = (sum(s[k] for s in shares) or 1 for k in (0, 1))
    n, best = len(on), [float("inf")] * (len(on) + 1)
    best[0] = 0.0
    back: list[list[int]] = []
    for w, c in shares:
        cost, came = [float("inf")] * (n + 1), [0] * (n + 1)
        for end in range(n + 1):
            for begin in range(end + 1):
                if best[begin] == float("inf"):
                    continue
                off = abs((weights[end] - weights[begin]) / (weights[n] or 1) - w / measured_w)
                off += (
                    _CONTEXT_WEIGHT * abs((caches[end] - caches[begin]) / (caches[n] or 1) - c / measured_c)
                    if caches[n]
                    else 0
                )
                if best[begin] + off < cost[end]:
                    cost[end], came[end] = best[begin] + off, begin
        best = cost
        back.append(came)
    ends = [n]
    for came in reversed(back):
        ends.append(came[ends[-1]])
    ends.reverse()
    return tuple(b - a for a, b in pairwise(ends))


def _shares(load: Load, place: str) -> tuple[int, int]:
    return tuple((s.middle if (s := load.sizes(place, kind)) else 0) for kind in ("model", "context"))  # type: ignore[return-value]


def _bytes_of_layers(model: Model, gpus: Sequence[Gpu], settings: Settings) -> tuple[list[int], list[int]]:
    """Weights and caches of each of the n_layer + 1 layers on a card, but for what stays on the host by name."""
    rules, context = rules_of(gpus[0], era_of(settings.engine_build)), resolve(model, settings)
    placed = place(model, gpus[:1], settings)
    weights = [0] * (model.n_layer + 1)
    for weight, device in zip(model.weights, placed.weights, strict=True):
        if weight.home is Home.INPUT or device == HOST:
            continue
        at = model.n_layer if weight.home is Home.OUTPUT else int(weight.home)
        weights[at] += rules.alloc_bytes(weight.tensor.type, weight.tensor.shape)
    caches = [
        layer_context_bytes(model, layer, context, rules) if settings.offload_kqv else 0
        for layer in model.layers
    ]
    return weights, [int(c) for c in caches] + [0]
