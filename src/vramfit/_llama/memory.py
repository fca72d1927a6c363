"""Count the bytes of a placed model's weights and context: plain arithmetic, exact.

In: `Model`, `Placement`, `Context` and the rules of the backends. Out: bytes for each device; arrays of
them when the counts of the context are arrays.
Source: `ggml_backend_alloc_ctx_tensors_from_buft` (ggml-alloc.c:1168-1205) for padding,
llama-kv-cache.cpp:186-215 for KV tensors, llama-memory-recurrent.cpp:86-113 for states.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from .._base.memo import Memo
from .._ggml.backends import HOST_BACKEND, Backend, pad
from .._ggml.types import BY_NAME, TensorType
from .cparams import Context, cache_streams, cells
from .loader import can_use
from .model import Cache, Home, Layer, Model, Weight
from .placement import HOST, Placement

__all__ = [
    "DeviceBytes",
    "cache_rows",
    "context_bytes",
    "is_repacked",
    "layer_context_bytes",
    "stored_rows",
    "weight_bytes",
    "weight_size",
    "weight_sizes",
]

_F32 = BY_NAME["f32"]
_MULTIPLIED: Final = {
    "MUL_MAT": 2,
    "MUL_MAT_ID": 3,
}  # operation -> dimensions of the weights that are repacked for it
_Tensor = tuple[TensorType, tuple[int, ...]]  # type and shape


class DeviceBytes(NamedTuple):
    """Bytes of one kind of memory: a number for each device, and one for the host."""

    gpus: tuple[int, ...]
    host: int

    @property
    def total(self) -> int:
        """Sum over all devices and the host."""
        return sum(self.gpus) + self.host


def weight_bytes(
    model: Model, placement: Placement, backends: Sequence[Backend], host: Backend
) -> DeviceBytes:
    """Count the bytes of weights on each device. A duplicate costs nothing where the tensor already is.

    `backends` gives the rules of each device in use, `host` those of host memory. Rows of what the host repacks
    (`is_repacked`) are read from another copy.
    """
    seen: set[tuple[str, int, bool, bool]] = set()
    pins = next((b for b in backends if b.host_buffer), None)
    sums = [0] * (placement.n_devices + 1)  # the last is HOST
    sizes = {b: weight_sizes(model, b) for b in (*backends, host, HOST_BACKEND)}
    for i, (weight, device) in enumerate(zip(model.weights, placement.weights, strict=True)):
        apart = device == HOST and is_repacked(weight, backends, host)
        # what a device pins is for weights that it could run (llama-model.cpp:518); others have a buffer of their own
        plain = device == HOST and pins is not None and not can_use(weight, pins)
        key = (weight.tensor.name, device, apart, plain)
        if weight.duplicate and key in seen:
            continue
        seen.add(key)
        sums[device] += sizes[HOST_BACKEND if plain else _rules(device, backends, host)][i]
        if apart and host.tiles and weight.op == "MUL_MAT":
            sums[device] += pad(host.tile_bytes(weight.tensor.type, weight.tensor.shape), host.alignment)
    return DeviceBytes(tuple(sums[:-1]), sums[HOST])


def is_repacked(weight: Weight, backends: Sequence[Backend], host: Backend) -> bool:
    """Whether the host keeps a weight in a buffer of another order: where no device pins memory (llama-model.cpp:1093-1125)."""
    if weight.home is Home.INPUT or weight.lent is not None or any(b.host_buffer for b in backends):
        return False
    shape = weight.tensor.shape
    n_dims = max((i + 1 for i, n in enumerate(shape) if n > 1), default=1)  # ggml_n_dims
    matrix = n_dims == _MULTIPLIED.get(weight.op)  # repack.cpp:5150, 5164
    return matrix and host.repacks(weight.tensor.type, shape[:n_dims])


def context_bytes(
    model: Model, placement: Placement, context: Context, backends: Sequence[Backend], host: Backend
) -> DeviceBytes:
    """Count the bytes of KV caches and recurrent states on each device."""
    sums = [0] * (placement.n_devices + 1)
    own = ((x, at) for x, at in zip(model.layers, placement.caches, strict=True) if x.lent is None)
    alike = Counter((x.caches, x.states, at) for x, at in own)
    for (caches, states, device), count in alike.items():
        sizes = _sizes(_tensors(model, caches, states, context), _rules(device, backends, host))
        sums[device] = sums[device] + count * sum(sizes)  # not in place: arrays grow by broadcasting
    return DeviceBytes(tuple(sums[:-1]), sums[HOST])


def layer_context_bytes(model: Model, layer: Layer, context: Context, rules: Backend) -> int:
    """Count the bytes of one layer's KV cache and recurrent state."""
    return sum(_sizes(_tensors(model, layer.caches, layer.states, context), rules))


def _sizes(tensors: Iterable[_Tensor], rules: Backend) -> Iterable[int]:
    return (pad(rules.alloc_bytes(kind, shape), rules.alignment) for kind, shape in tensors)


def cache_rows(model: Model, cache: Cache, context: Context) -> tuple[tuple[TensorType, int], ...]:
    """List type and row width (elements of a cell) of the K tensor and, if there is one, the V tensor.

    Without flash attention V is stored transposed and every layer gets the widest row of the model
    (llama-kv-cache.cpp:197).
    """
    if not cache.has_v:
        return ((context.type_k, cache.k_width),)
    widest = cache.kind == "kv" and context.v_trans
    return (
        (context.type_k, cache.k_width),
        (context.type_v, model.v_width_max if widest else cache.v_width),
    )


def stored_rows(model: Model, cache: Cache, context: Context) -> tuple[tuple[TensorType, int], ...]:
    """`cache_rows` as they are stored: builds that knew no latent attention kept K and V of every head of it."""
    if not (context.era.no_latent and model.is_mla and cache.kind == "kv"):
        return cache_rows(model, cache, context)
    heads = max((layer.n_head for layer in model.layers), default=0)
    widths = (model.hparams.get(f"attention.{name}_length_mla", 0) for name in ("key", "value"))
    k, v = (heads * width if isinstance(width, int) else 0 for width in widths)
    return ((context.type_k, k), (context.type_v, v))


def _tensors(
    model: Model, caches: Sequence[Cache], states: Sequence[int], context: Context
) -> Iterable[_Tensor]:
    for cache in caches:
        n_stream = cache_streams(cache, context)
        for kind, width in stored_rows(model, cache, context):
            yield kind, (width, cells(cache, context), n_stream)
    for elements in states:
        yield _F32, (elements, context.n_seq_max * (1 + context.n_rs_seq))


def _rules(device: int, backends: Sequence[Backend], host: Backend) -> Backend:
    return host if device == HOST else backends[device]


def weight_sizes(model: Model, rules: Backend) -> tuple[int, ...]:
    """Count the bytes that each of `model.weights` takes in a buffer; cached, since a plan asks many times."""
    return _SIZES.get(model, rules, lambda: tuple([weight_size(w, rules) for w in model.weights]))


_SIZES: Final[Memo[tuple[int, ...]]] = Memo(16)


def weight_size(weight: Weight, rules: Backend) -> int:
    """Count the bytes that one weight takes in a buffer, padding included; none if it is another model's."""
    if weight.lent is not None:
        return 0
    return pad(rules.alloc_bytes(weight.tensor.type, weight.tensor.shape), rules.alignment)
