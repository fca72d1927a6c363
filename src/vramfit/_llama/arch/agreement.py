"""Check that a header agrees with itself: what the engine would refuse, or abort on, is refused here by key and value.

In: the geometry that the keys give, the layers made of it, the file's tensors. Out: nothing, or a `ModelError`.
Source: `check_tensor_dims` (llama-model-loader.cpp:880-925) for shapes; `ggml_can_mul_mat` and `ggml_set_rows`
(ggml.c:3342, 3920), on which the graph of an attention insists, for heads. The shapes are those that nearly all
`load_arch_tensors` of src/models ask for; the exceptions are fields of `Architecture`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from ..model import Layer, Tensor
from .geometry import Geometry
from .metadata import Metadata
from .names import parse
from .table import Architecture, Feed, Memory, Recurrent

__all__ = ["check_heads", "check_shapes"]

HEADS, KV_HEADS = "attention.head_count", "attention.head_count_kv"
KEY, VALUE = "attention.key_length", "attention.value_length"
WIDTH, FEED = "embedding_length", "feed_forward_length"
EXPERTS = "expert_count"


def check_heads(arch: Architecture, meta: Metadata, g: Geometry, layers: Iterable[Layer]) -> None:
    """Refuse heads that no attention can be made of, in layers that attend."""
    if arch.rotates_all and g.n_head[0]:
        n_rot = meta.number("rope.dimension_count", g.head_k[0])
        if n_rot != g.head_k[0]:
            meta.fail(
                "rope.dimension_count", f"= {n_rot} is not {KEY} = {g.head_k[0]}, as the engine demands"
            )
    for layer in layers:
        if _attends(arch, layer):
            _check_layer(arch, meta, g, layer)


def _attends(arch: Architecture, layer: Layer) -> bool:
    if layer.is_recurrent and arch.recurrent is not Recurrent.BOTH:
        return False
    has_cache = any(c.kind == "kv" for c in layer.caches) or layer.shares_kv_with is not None
    return has_cache or (arch.memory is Memory.NONE and arch.width == WIDTH)


def _check_layer(arch: Architecture, meta: Metadata, g: Geometry, layer: Layer) -> None:
    heads, kv = layer.n_head, layer.n_head_kv
    where = f"(layer {layer.index})"
    if not kv:
        if not arch.headless:
            meta.fail(
                KV_HEADS, f"= 0 {where} leaves an attention without keys, which the engine cannot build"
            )
        return
    if heads % kv or not heads:
        meta.fail(
            KV_HEADS,
            f"= {kv} {where} does not divide {HEADS} = {heads}, and the engine stops at such an attention",
        )
    if g.is_mla and kv != 1:
        meta.fail(
            KV_HEADS,
            f"= {kv} {where}: latent attention keeps one head, and the engine stops at another number",
        )


Wanted = tuple[int, tuple[int, ...], tuple[str, ...]]  # which extent, what it may be, the keys that say so


def check_shapes(
    arch: Architecture, meta: Metadata, g: Geometry, layers: tuple[Layer, ...], tensors: Iterable[Tensor]
) -> None:
    """Refuse tensors whose shapes contradict the keys, as the engine does when it creates them."""
    if arch.is_draft or arch.width != WIDTH:
        return  # of another model's width, or made of other parts
    tensors = tuple(tensors)
    names = {t.name for t in tensors}
    for tensor in tensors:
        found = parse(tensor.name)
        if found is None or not tensor.name.endswith(".weight"):
            continue
        rule = _RULES.get(found.base)
        if rule is None or not (il := found.home if isinstance(found.home, int) else 0) < len(layers):
            continue
        for axis, allowed, keys in rule(arch, g, layers[il], names):
            _compare(meta, g, layers[il], tensor, axis, allowed, keys)


def _compare(
    meta: Metadata,
    g: Geometry,
    layer: Layer,
    tensor: Tensor,
    axis: int,
    allowed: tuple[int, ...],
    keys: tuple[str, ...],
) -> None:
    got = (*tensor.shape, 1, 1, 1)[axis]
    if got in allowed:
        return
    values: Mapping[str, int] = {
        HEADS: layer.n_head, KV_HEADS: layer.n_head_kv, KEY: layer.head_k, VALUE: layer.head_v, WIDTH: g.n_embd,
        FEED: layer.n_ff, EXPERTS: g.n_expert,
    }  # fmt: skip
    others = "".join(f" and {key} = {values[key]}" for key in keys[1:])
    meta.fail(
        keys[0],
        f"= {values[keys[0]]}{others} want {allowed[0]} as extent {axis} of tensor {tensor.name!r}, whose shape is"
        f" {tensor.shape}",
    )


# Rules: what the extents of a tensor must be.


def _attention(
    first: Callable[[Architecture, Layer], int], keys: tuple[str, ...], *, into: bool = False
) -> Callable[[Architecture, Geometry, Layer, Collection[str]], list[Wanted]]:
    def rule(arch: Architecture, g: Geometry, layer: Layer, names: Collection[str]) -> list[Wanted]:
        width: Wanted = (1 if into else 0, (g.n_embd,), (WIDTH,))
        if g.is_mla or not _attends(arch, layer):
            return [width]
        return [width, (0 if into else 1, (first(arch, layer),), keys)]

    return rule


def _queries(arch: Architecture, layer: Layer) -> int:
    return layer.n_head * layer.head_k * (2 if arch.gated_query else 1)


def _all_three(arch: Architecture, layer: Layer) -> int:
    return layer.n_head * layer.head_k + layer.n_head_kv * (layer.head_k + layer.head_v)


def _attention_out(arch: Architecture, g: Geometry, layer: Layer, names: Collection[str]) -> list[Wanted]:
    if arch.headless and not layer.n_head_kv:
        return [(0, (g.n_embd,), (WIDTH,)), (1, (g.n_embd,), (WIDTH,))]
    return _OUT(arch, g, layer, names)


def _up(arch: Architecture, g: Geometry, layer: Layer, names: Collection[str]) -> list[Wanted]:
    width: Wanted = (0, (g.n_embd,), (WIDTH,))
    if arch.feed is Feed.OTHER:
        return [width]
    gated = f"blk.{layer.index}.ffn_gate.weight" in names
    n_ff = layer.n_ff // 2 if arch.feed is Feed.HALF else layer.n_ff
    return [width, (1, (n_ff,) if gated else (n_ff, 2 * n_ff), (FEED,))]


def _down(arch: Architecture, g: Geometry, layer: Layer, names: Collection[str]) -> list[Wanted]:
    width: Wanted = (1, (g.n_embd,), (WIDTH,))
    if arch.feed is Feed.OTHER:
        return [width]
    return [width, (0, (layer.n_ff // 2 if arch.feed is Feed.HALF else layer.n_ff,), (FEED,))]


def _experts(axis: int) -> Callable[[Architecture, Geometry, Layer, Collection[str]], list[Wanted]]:
    def rule(arch: Architecture, g: Geometry, layer: Layer, names: Collection[str]) -> list[Wanted]:
        return [(axis, (g.n_expert,), (EXPERTS,))] if g.n_expert else []

    return rule


def _width(arch: Architecture, g: Geometry, layer: Layer, names: Collection[str]) -> list[Wanted]:
    return [(0, (g.n_embd,), (WIDTH,))]


_OUT: Final = _attention(lambda _, x: x.n_head * x.head_v, (HEADS, VALUE), into=True)
_RULES: Final[Mapping[str, Callable[[Architecture, Geometry, Layer, Collection[str]], list[Wanted]]]] = {
    "token_embd": _width,
    "output": _width,
    "output_norm": _width,
    "blk.attn_norm": _width,
    "blk.ffn_norm": _width,
    "blk.attn_q": _attention(_queries, (HEADS, KEY)),
    "blk.attn_k": _attention(lambda _, x: x.n_head_kv * x.head_k, (KV_HEADS, KEY)),
    "blk.attn_v": _attention(lambda _, x: x.n_head_kv * x.head_v, (KV_HEADS, VALUE)),
    "blk.attn_qkv": _attention(_all_three, (KV_HEADS, HEADS, KEY, VALUE)),
    "blk.attn_output": _attention_out,
    "blk.ffn_up": _up,
    "blk.ffn_gate": _up,
    "blk.ffn_down": _down,
    "blk.ffn_gate_inp": _experts(1),
    "blk.ffn_gate_exps": _experts(2),
    "blk.ffn_up_exps": _experts(2),
    "blk.ffn_gate_up_exps": _experts(2),
    "blk.ffn_down_exps": _experts(2),
}
