"""Place every layer, weight and cache on a device, by the engine's own rules.

In: a `Model`, cards, `Settings`. Out: a `Placement`. Nothing here counts bytes.
Source: `llama_model_base::load_tensors` (llama-model.cpp:1516-1614) for layers,
`llama_model_loader::create_tensor` (llama-model-loader.cpp:1116-1260) for weights,
llama-kv-cache.cpp:207 and llama-memory-recurrent.cpp:80 for caches and states.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from .._base.errors import GpuError, SettingsError
from .._base.memo import Memo
from .._devices import Gpu
from .._ggml.backends import Backend
from .._ggml.graph import HOST
from .._ggml.sched import copies_of_inputs
from .eras import era_of, rules_of
from .loader import can_use
from .model import Home, Model
from .params import MAX_DEVICES, Settings

__all__ = [
    "HOST",
    "Placement",
    "devices",
    "ends_like",
    "pipeline_copies",
    "place",
    "place_split",
    "split_is_given",
]


class Placement(NamedTuple):
    """Device indexes (or `HOST`) of a model's parts. Indexes count the devices in use."""

    n_devices: int
    layers: tuple[int, ...]  # one a layer, and last the output layer
    weights: tuple[int, ...]  # one for each of `model.weights`
    caches: tuple[int, ...]  # one a layer: its KV cache and recurrent state
    offload_kqv: bool = True  # whether caches follow their layers
    overrides: bool = False  # whether tensors were told to stay on the host by name

    @property
    def output(self) -> int:
        """Device of the output layer."""
        return self.layers[-1]

    def count(self, device: int) -> int:
        """Count the layers, of n_layer + 1, that are on `device`."""
        return self.layers.count(device)


def devices(gpus: Sequence[Gpu], settings: Settings) -> tuple[int, ...]:
    """List the indexes of the cards that the engine uses: all, or `main_gpu` alone with `split_mode` none.

    Source: llama.cpp:283-300. Raises `SettingsError` when `main_gpu` names no card.
    """
    if len(gpus) > MAX_DEVICES:
        raise GpuError(f"{len(gpus)} cards given; the engine takes at most {MAX_DEVICES}")
    if settings.split_mode != "none" or not gpus:
        return tuple(range(len(gpus)))
    if settings.main_gpu < 0:
        return ()
    if settings.main_gpu >= len(gpus):
        raise SettingsError(f"main_gpu={settings.main_gpu}: there are {len(gpus)} cards; count from 0")
    return (settings.main_gpu,)


def place(model: Model, gpus: Sequence[Gpu], settings: Settings) -> Placement:
    """Place every part of `model` on the cards in use (see `devices`) or on the host."""
    used = [gpus[i] for i in devices(gpus, settings)]
    return _placed(model, used, settings, _layers(model.n_layer, used, settings))


def place_split(model: Model, gpus: Sequence[Gpu], settings: Settings, counts: Sequence[int]) -> Placement:
    """Place `model` with so many layers on each card in use; the first ones, which no card has, on the host.

    That is what `place` does where `settings` have these numbers as their `tensor_split` and their sum as
    `n_gpu_layers`.
    """
    used = [gpus[i] for i in devices(gpus, settings)]
    on_gpu = tuple(device for device, count in enumerate(counts) for _ in range(count))
    return _placed(model, used, settings, _behind_host(model.n_layer, on_gpu, settings))


def pipeline_copies(placement: Placement, backends: Sequence[Backend]) -> int:
    """Count the copies of each input that the scheduler keeps for a placed model: several with pipeline parallelism.

    The engine also asks for the split by layers; any other leaves a single device (llama-context.cpp:430-455).
    """
    return copies_of_inputs(
        backends,
        all_layers=HOST not in placement.layers,
        split_by_layer=True,
        offload_kqv=placement.offload_kqv,
        overrides=placement.overrides,
    )


def split_is_given(settings: Settings) -> bool:
    """Tell whether `tensor_split` decides the split: shares that are all 0 leave it to the engine."""
    return any(settings.tensor_split)


def ends_like(n_shares: int, n_layers: int) -> tuple[int, ...]:
    """For 0 … `n_shares` layers of one model before a point of its split, count those of another's `n_layers` there.

    The other is divided by shares that are the first one's numbers of layers. A point is the shares before it over their
    sum, whatever lies between, so nothing else of the split counts; whole numbers are added without rounding.
    """
    places = [_f32(i / n_layers) for i in range(n_layers)]
    return (*(bisect_left(places, _f32(n / n_shares)) for n in range(n_shares)), n_layers)


def _placed(model: Model, used: Sequence[Gpu], settings: Settings, layers: tuple[int, ...]) -> Placement:
    """Place weights and caches where their layers are, on the cards in use."""
    kept = _kept_back(model, settings.cpu_tensors)
    rules = [rules_of(g, era_of(settings.engine_build)) for g in used]
    places = (*layers, HOST)  # of the layers the last one is the output
    wanted = [places[home] for home in _homes(model)]
    for i in kept:
        wanted[i] = HOST
    useless = [_useless(model, b) for b in rules]
    if any(useless):
        wanted = [HOST if at != HOST and i in useless[at] else at for i, at in enumerate(wanted)]
    if model.company is not None:  # an adapter is where the weight is that it changes
        wanted = [
            at if w.beside is None else wanted[w.beside] for at, w in zip(wanted, model.weights, strict=True)
        ]
    caches = layers[:-1] if settings.offload_kqv else (HOST,) * model.n_layer
    if model.borrows:
        wanted = [at if w.lent is None else w.lent for at, w in zip(wanted, model.weights, strict=True)]
        caches = tuple(at if x.lent is None else x.lent for at, x in zip(caches, model.layers, strict=True))
    weights = tuple(wanted)
    return Placement(len(used), layers, weights, caches, settings.offload_kqv, bool(settings.cpu_tensors))


def _layers(n_layer: int, gpus: Sequence[Gpu], settings: Settings) -> tuple[int, ...]:
    """Put the last `n_gpu_layers` of n_layer + 1 on the cards, in proportion to the split; return each layer's device."""
    if not gpus:
        return (HOST,) * (n_layer + 1)
    asked = settings.n_gpu_layers
    active = n_layer + 1 if asked < 0 else min(asked, n_layer + 1)
    points = _split_points(gpus, settings.tensor_split)
    on_gpu = tuple(_device_at(points, i, active) for i in range(active))
    return _behind_host(n_layer, on_gpu, settings)


def _behind_host(n_layer: int, on_gpu: tuple[int, ...], settings: Settings) -> tuple[int, ...]:
    """Put layers on cards behind those on the host; in an older build the output layer is the last to leave the host."""
    rest = n_layer + 1 - len(on_gpu)
    if rest and era_of(settings.engine_build).output_last:
        return (HOST,) * (rest - 1) + on_gpu + (HOST,)
    return (HOST,) * rest + on_gpu


def _device_at(points: Sequence[float], index: int, active: int) -> int:
    return bisect_right(points, _f32(index / active))


def _split_points(gpus: Sequence[Gpu], split: Sequence[float]) -> list[float]:
    """Add up the shares, normalised, each step rounded to float32 as the engine's arithmetic is."""
    shares = [float(x) for x in split[: len(gpus)]] + [0.0] * (len(gpus) - len(split))
    if not any(shares):
        shares = [float(g.free) for g in gpus]
    if not any(shares):
        raise GpuError("no card has free memory; give `free` memory or a tensor_split")
    sums = list(accumulate(map(_f32, shares), lambda a, b: _f32(a + b)))
    return [_f32(x / sums[-1]) for x in sums]


def _f32(x: float) -> float:
    """Round `x` to float32: one operation on two float32 in double, rounded once, is what float32 gives."""
    return float(struct.unpack("f", struct.pack("f", x))[0])


def _kept_back(model: Model, patterns: tuple[str, ...]) -> frozenset[int]:
    """List the positions of weights that a pattern keeps on the host: of the model's file, not of what lies beside it; cached."""

    def search() -> frozenset[int]:
        searches = [re.compile(p).search for p in patterns]
        own = {t.name for t in model.tensors}
        names = (w.tensor.name for w in model.weights)
        return frozenset(
            i for i, name in enumerate(names) if any(found(name) for found in searches) and name in own
        )

    return _KEPT_BACK.get(model, patterns, search) if patterns else frozenset()


_KEPT_BACK: Final[Memo[frozenset[int]]] = Memo(64)


def _useless(model: Model, rules: Backend) -> frozenset[int]:
    """List the positions of weights that a device cannot use; cached."""

    def search() -> frozenset[int]:
        return frozenset(i for i, w in enumerate(model.weights) if not can_use(w, rules))

    return _USELESS.get(model, rules, search)


_USELESS: Final[Memo[frozenset[int]]] = Memo(16)


def _homes(model: Model) -> tuple[int, ...]:
    """List where each weight lives, as a position in (layers, output layer, host); cached, since a plan places many times."""

    def search() -> tuple[int, ...]:
        return tuple([_ENDS[w.home] if isinstance(w.home, Home) else w.home for w in model.weights])

    return _HOMES.get(model, None, search)


_ENDS: Final = {Home.OUTPUT: -2, Home.INPUT: -1}
_HOMES: Final[Memo[tuple[int, ...]]] = Memo(16)
