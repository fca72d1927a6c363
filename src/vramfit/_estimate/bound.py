"""Bound compute buffers from above, for models whose graph vramfit does not have.

In: `Model`, `Placement`, `Context`, the rules of the backends. Out: bytes for each device, larger than what the
engine reserves. It adds up what one layer can keep alive at once as if nothing were reused, takes
the worst layer of a device, and adds what lives through all of them. The terms follow
`llm_graph_context` (llama-graph.cpp) and the scheduler's copies (ggml-backend.cpp:1009-1390).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

from .._ggml.backends import Backend, Node
from .._ggml.graph import Extents, contiguous
from .._ggml.graph import Tensor as GraphTensor
from .._ggml.types import BY_NAME, TensorType
from .._llama.cparams import CONTEXT_STEP, Context, cache_streams, cells, more_inputs, prompt_tokens
from .._llama.memory import DeviceBytes, cache_rows
from .._llama.model import Home, Layer, Model, Tensor
from .._llama.placement import HOST, Placement, pipeline_copies

__all__ = ["bounds", "compute_bound"]

F32: Final = 4
F16: Final = 2
F32_TYPE: Final = BY_NAME["f32"]
F16_TYPE: Final = BY_NAME["f16"]
# Each product of a layer can be alive as itself and once more: normalised, rotated, gated or permuted.
PRODUCT_COPIES: Final = 5
SCORE_COPIES: Final = 4  # raw, soft-capped, masked, softmax
STATE_COPIES: Final = 6  # read, convolved, updated, written, and slack for chunked scans
RESIDUALS: Final = 8
ALIGNMENT_SLACK: Final = 16 << 20


class _Kind(NamedTuple):
    """Layers of equal needs: one of them, the elements that its weights' products add up to, and where the layers are."""

    layer: Layer
    products: int  # elements for one token
    devices: tuple[int, ...]  # one for each layer of the kind


class _Reserve(NamedTuple):
    """The reserved batch, as every term of the sum reads it."""

    model: Model
    backends: tuple[Backend, ...]
    n_encoded: int  # tokens that an encoder has left for the decoder to attend to
    kinds: tuple[_Kind, ...]
    context: Context
    n_tokens: int

    @property
    def flash_attn(self) -> bool:
        """Whether flash attention is sure to be on; while that is open, what is larger counts."""
        return self.context.flash_attn and not self.context.auto_fa

    def is_plain(self, layer: Layer) -> bool:
        """Whether attention runs where the layer is, over K and V as they lie there, without scores."""
        if not self.flash_attn or not all(c.kind == "kv" and c.has_v for c in layer.caches):
            return False
        if not layer.head_k or not layer.head_v or not layer.n_head_kv:
            return True
        node = self._attention(layer)
        return all(b.supports_op(node.tensor, node.src) for b in self.backends)

    def _attention(self, layer: Layer) -> Node:
        """Make the flash attention node of a layer over the smallest cache, to ask a backend about."""
        tensors = (
            _tensor(F32_TYPE, (layer.head_k, self.n_tokens, layer.n_head, 1)),
            _tensor(self.context.type_k, (layer.head_k, CONTEXT_STEP, layer.n_head_kv, 1)),
            _tensor(self.context.type_v, (layer.head_v, CONTEXT_STEP, layer.n_head_kv, 1)),
            _tensor(F16_TYPE, (CONTEXT_STEP, self.n_tokens, 1, 1)),
        )
        result = _tensor(F32_TYPE, (layer.head_v, layer.n_head, self.n_tokens, 1), "FLASH_ATTN_EXT")
        return Node(result, tensors, tuple(range(len(tensors))))


def _tensor(type_: TensorType, ne: Extents, op: str = "NONE") -> GraphTensor:
    return GraphTensor("", op, type_, ne, contiguous(type_, ne))


def compute_bound(
    model: Model, placement: Placement, context: Context, backends: Sequence[Backend]
) -> DeviceBytes:
    """Bound the compute buffers of a context: bytes for each device, the host last, that no reservation exceeds."""
    return bounds(model, placement, backends)(context)


def bounds(
    model: Model, placement: Placement, backends: Sequence[Backend]
) -> Callable[[Context], DeviceBytes]:
    """Prepare `compute_bound` of a placed model for many contexts: what they share is counted once."""
    tensors = _tensors_by_layer(model)
    kinds = _kinds(model, placement, tensors)
    host_weights = _host_weights(model, placement)
    encoded = model.n_ctx_train if model.is_encoder and model.has_cache else 0
    copies = pipeline_copies(placement, backends)
    reserve = partial(_Reserve, model, tuple(backends), encoded, tuple(kinds))

    def bound(context: Context) -> DeviceBytes:
        r = reserve(context, prompt_tokens(context))
        on_host = host_weights if context.op_offload else 0
        peaks = [(_layer(r, kind), kind.devices) for kind in kinds]
        output = _output(r, tensors[model.n_layer])
        shared = copies * (_inputs(r) + _position_biases(r)) + _crossing(r, placement) + ALIGNMENT_SLACK
        shared += copies * more_inputs(model, context)
        gpus = []
        for device in range(placement.n_devices):
            # with weights on the host any card may be handed the work of any layer
            here = [peak for peak, at in peaks if device in at or on_host]
            last = output if placement.output == device or on_host else 0
            used = device in placement.layers or on_host
            gpus.append(shared + on_host + max([0, *here]) + last if used else 0)
        return DeviceBytes(tuple(gpus), shared + max(peak for peak, _ in peaks) + output)

    return bound


def _kinds(model: Model, placement: Placement, tensors: Sequence[Sequence[Tensor]]) -> list[_Kind]:
    """Group layers that are alike, each kind once."""
    found: dict[tuple[Layer, int], list[int]] = {}
    runs = any(not layer.is_nextn for layer in model.layers)
    for layer, device in zip(model.layers, placement.layers, strict=False):
        if layer.is_nextn and runs:
            continue
        products = sum(_product(layer, t) for t in tensors[layer.index])
        found.setdefault((replace(layer, index=0), products), []).append(device)
    return [_Kind(layer, products, tuple(at)) for (layer, products), at in found.items()]


def _inputs(r: _Reserve) -> int:
    """Count the bytes of inputs: token rows, residual streams and one mask for each kind of cache."""
    width = F16 if r.flash_attn else F32
    if r.context.era.f32_mask:  # the mask, and what it is cast to
        width = F32 + F16
    kinds = {(c.kind, cells(c, r.context)) for kind in r.kinds for c in kind.layer.caches}
    rows = r.n_encoded + (sum(n for _, n in kinds) if r.model.has_cache else r.n_tokens)
    masks = rows * r.n_tokens * width * 2
    return masks + RESIDUALS * max(r.n_tokens, r.n_encoded) * r.model.n_embd * F32


def _layer(r: _Reserve, kind: _Kind) -> int:
    layer = _with_caches(r.model, kind.layer)
    products = kind.products * max(r.n_tokens, r.n_encoded) * F32 * PRODUCT_COPIES
    attention = _scores(r, layer) * F32 * SCORE_COPIES
    states = sum(layer.states) * F32 * r.context.n_seq_max * (1 + r.context.n_rs_seq) * STATE_COPIES
    return products + attention + states + sum(_cast(r, layer))


def _scores(r: _Reserve, layer: Layer) -> int:
    """Count the elements of a layer's attention scores: every token against every cell, for each head.

    Flash attention keeps none, but an indexer does, and latent heads have kernels for few sizes only.
    """
    if not r.model.has_cache:
        return r.n_tokens * r.n_tokens * max(1, layer.n_head)
    if r.is_plain(layer) and not r.n_encoded:
        return 0
    heads = max(1, layer.n_head, r.model.n_head_indexer)
    return (r.n_encoded + sum(cells(c, r.context) for c in layer.caches)) * r.n_tokens * heads


def _crossing(r: _Reserve, placement: Placement) -> int:
    """Count the bytes of what attention copies from the device where it lies: caches and queries, layer by layer.

    That is so for caches kept on the host, and for heads that a card has no kernel for. With several
    copies nothing of it is freed, and copies of different sizes leave gaps: all of them are counted.
    """
    here = placement.offload_kqv and r.model.has_cache and all(r.is_plain(kind.layer) for kind in r.kinds)
    queries = caches = 0
    for layer, _, devices in r.kinds:
        away = sum(1 for at in devices if not here or _reads_away(layer, at, placement))
        queries += away * (layer.n_head * layer.head_k + 3 * r.model.n_embd)
        caches += away * sum(_cast(r, _with_caches(r.model, layer)))
    queries *= max(r.n_tokens, r.n_encoded) * F32
    return 4 * caches + 4 * queries


def _reads_away(layer: Layer, device: int, placement: Placement) -> bool:
    """Whether a layer reads the cache of one that is on another device."""
    return layer.shares_kv_with is not None and placement.caches[layer.shares_kv_with] != device


def _with_caches(model: Model, layer: Layer) -> Layer:
    """Give a layer the caches that it reads: another layer's where it shares them."""
    if layer.shares_kv_with is None:
        return layer
    return replace(layer, caches=model.layers[layer.shares_kv_with].caches)


def _position_biases(r: _Reserve) -> int:
    """Count the bytes of position biases of encoder-decoders: made where the first layer is, copied to layers elsewhere."""
    if not r.n_encoded or not any(at != r.kinds[0].devices[0] for kind in r.kinds for at in kind.devices):
        return 0
    layers = sum(len(kind.devices) * _scores(r, kind.layer) for kind in r.kinds)
    return 2 * layers * F32


def _product(layer: Layer, tensor: Tensor) -> int:
    """Count the elements of one token's product with a weight; a stack of experts gives one product for each used."""
    if len(tensor.shape) < 2:
        return tensor.shape[0]
    return tensor.shape[1] * (layer.n_expert_used if len(tensor.shape) > 2 else 1)


def _cast(r: _Reserve, layer: Layer) -> Iterable[int]:
    """Count the bytes of copies of one layer's cache: f16 for flash attention, f32 where it is made contiguous."""
    for cache in layer.caches:
        streams = cache_streams(cache, r.context)
        for _, width in cache_rows(r.model, cache, r.context):
            yield width * cells(cache, r.context) * streams * F32


def _output(r: _Reserve, tensors: Iterable[Tensor]) -> int:
    n_outputs = min(r.n_tokens, r.context.n_outputs_max)
    widest = max([r.model.n_vocab, *(t.shape[1] for t in tensors if len(t.shape) > 1)])
    return 2 * n_outputs * (widest + RESIDUALS * r.model.n_embd) * F32


def _host_weights(model: Model, placement: Placement) -> int:
    """Find the most bytes of weights that one layer keeps on the host: offloading its operations copies them."""
    sums: dict[object, int] = {}
    for weight, device in zip(model.weights, placement.weights, strict=True):
        if device == HOST and weight.home is not Home.INPUT:
            sums[weight.home] = sums.get(weight.home, 0) + weight.tensor.n_bytes
    return max(sums.values(), default=0)


def _tensors_by_layer(model: Model) -> list[list[Tensor]]:
    """Group the tensors by layer, those of the output last."""
    found: list[list[Tensor]] = [[] for _ in range(model.n_layer + 1)]
    for weight in model.weights:
        if weight.home is not Home.INPUT:
            index = model.n_layer if isinstance(weight.home, Home) else weight.home
            found[index].append(weight.tensor)
    return found
