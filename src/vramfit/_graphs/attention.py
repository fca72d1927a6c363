"""Attention: what it reads of a cache, how it stores there, and the products between.

In: a `GraphContext`, queries, keys and values in heads. Out: the result behind the output projection.
`kv_input` and its kin are what a graph makes once (inputs and masks); `attend` is what each layer makes of them.
Source: `build_attn_inp_*`, `build_attn` and `build_attn_mha` (llama-graph.cpp:2616-3460), `get_k` .. `cpy_v`
(llama-kv-cache.cpp:1276-1417).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from .._ggml.graph import Tensor
from .._ggml.ops import F16, F32, I64, Unbuildable
from .._ggml.types import TensorType
from .._llama.cparams import cells
from .._llama.model import Layer
from .context import GraphContext
from .parts import linear

__all__ = [
    "Bare",
    "Kv",
    "Windowed",
    "attend",
    "bare_input",
    "cached_k",
    "cached_v",
    "k_input",
    "kv_input",
    "mask_input",
    "mask_type",
    "mha",
    "rotation",
    "store_k",
    "store_v",
    "windowed_input",
]

ROTATED: Final = 64  # head sizes that a rotation of quantized caches divides (llama-kv-cache.cpp:325)


@dataclass(frozen=True, slots=True)
class Kv:
    """The inputs of attention over one cache (llm_graph_input_attn_kv, _attn_k)."""

    k_idxs: Tensor
    v_idxs: Tensor | None  # None where the cached K is V, too
    mask: Tensor
    k_rot: Tensor | None
    v_rot: Tensor | None
    kind: str = "kv"
    soft_cap: bool = False  # scores are capped (attn_soft_cap)
    alibi: bool = False  # f_max_alibi_bias is above zero

    def of(self, g: GraphContext, il: int) -> Kv:
        """The inputs for a layer: the same for all."""
        return self


@dataclass(frozen=True, slots=True)
class Windowed:
    """Two caches: one for layers that see all, one for layers that see a window (llm_graph_input_attn_kv_iswa)."""

    full: Kv
    window: Kv

    def of(self, g: GraphContext, il: int) -> Kv:
        """The inputs for a layer."""
        return self.window if g.is_swa(il) else self.full


@dataclass(frozen=True, slots=True)
class Bare:
    """The masks of attention without a cache (llm_graph_input_attn_no_cache)."""

    mask: Tensor
    window: Tensor | None = None
    soft_cap: bool = False
    alibi: bool = False


# --- inputs


def mask_type(g: GraphContext) -> TensorType:
    """Type of a mask: flash attention wants f16."""
    return F16 if g.flash_attn else F32


def mask_input(g: GraphContext, name: str, *ne: int) -> Tensor:
    """A mask as attention reads it; older builds made it in f32 and cast it for flash attention (#23764)."""
    if g.flash_attn and g.context.era.f32_mask:
        return g.cast(g.input(name, F32, *ne), F16)
    return g.input(name, mask_type(g), *ne)


def bare_input(g: GraphContext, *, soft_cap: bool = False, alibi: bool = False) -> Bare:
    """Masks among the tokens of the batch; a second one where some layers see a window."""
    n = g.n_tokens
    mask = mask_input(g, "self_kq_mask", n, n)
    windowed = any(g.is_swa(il) for il in g.known.trunk)
    return Bare(mask, mask_input(g, "self_kq_mask_swa", n, n) if windowed else None, soft_cap, alibi)


def kv_input(g: GraphContext, *, soft_cap: bool = False, alibi: bool = False) -> Kv:
    """The inputs for a cache that all layers with attention have (build_attn_inp_kv, 2860)."""
    return _kv(g, [x for x in g.model.layers if x.caches], soft_cap, alibi)


def windowed_input(
    g: GraphContext, *, soft_cap: bool = False, alibi: bool = False, rotates: bool = True
) -> Windowed:
    """The inputs for a cache of whole contexts and one of windows (build_attn_inp_kv_iswa, 3425).

    Beside recurrent states a quantized cache is not rotated (build_inp_mem_hybrid_iswa, 3646): no `rotates`.
    """
    layers = [x for x in g.model.layers if x.caches]
    full, window = (_kv(g, [x for x in layers if x.is_swa == swa], soft_cap, alibi) for swa in (False, True))
    if not rotates:
        full, window = (replace(x, k_rot=None, v_rot=None) for x in (full, window))
    return Windowed(full, window)


def k_input(g: GraphContext, layers: list[Layer] | None = None, kind: str = "kv") -> Kv:
    """The inputs for a cache of keys that are values, too (build_attn_inp_k, 2973)."""
    with_k = (
        [x for x in g.model.layers if any(c.kind == kind for c in x.caches)] if layers is None else layers
    )
    return Kv(
        g.input("attn_inp_k_idxs", I64, g.n_tokens), None, kq_mask(g, n_kv(g, with_k, kind)), None, None, kind
    )


def _kv(g: GraphContext, layers: list[Layer], soft_cap: bool, alibi: bool) -> Kv:
    c = g.context
    n_idxs = g.n_tokens * (g.model.v_width_max if c.v_trans else 1)
    return Kv(
        g.input("attn_inp_k_idxs", I64, g.n_tokens),
        g.input("attn_inp_v_idxs", I64, n_idxs),
        kq_mask(g, n_kv(g, layers)),
        rotation(g, "attn_inp_k_rot", c.type_k, g.head_k(), [x.head_k for x in layers]),
        rotation(g, "attn_inp_v_rot", c.type_v, g.head_v(), [x.head_v for x in layers], smallest=True),
        "kv",
        soft_cap,
        alibi,
    )


def n_kv(g: GraphContext, layers: list[Layer], kind: str = "kv") -> int:
    """Cells that a layer's attention sees in a full cache; of a cache without layers, those of a context."""
    for layer in layers:
        for cache in layer.caches:
            if cache.kind == kind:
                return cells(cache, g.context)
    return g.context.n_ctx_seq


def kq_mask(g: GraphContext, n_cells: int, type_: TensorType | None = None) -> Tensor:
    """Which cells each token may see: [n_kv, tokens of a stream, 1, streams] (llama-graph.cpp:29)."""
    n_stream = 1 if g.context.kv_unified else g.n_seqs
    ne = (n_cells, g.n_tokens // n_stream, 1, n_stream)
    if type_ is None:
        return mask_input(g, "attn_inp_kq_mask", *ne)
    return g.input("attn_inp_kq_mask", type_, *ne)


def rotation(
    g: GraphContext, name: str, type_: TensorType, first: int, heads: list[int], *, smallest: bool = False
) -> Tensor | None:
    """The matrix that rotates what a quantized cache stores (llama-kv-cache.cpp:321-338, 1447-1490).

    `first` is the head size of layer 0, `heads` are those of the cache's layers.
    """
    if not type_.is_quantized or first % ROTATED or not heads or any(x != heads[0] for x in heads):
        return None
    size = ROTATED
    while not smallest and heads[0] > 0 and not heads[0] % (2 * size):
        size *= 2
    return g.input(name, F32, size, size)


# --- caches


def cached_k(g: GraphContext, il: int, kind: str = "kv") -> Tensor:
    """The cached keys of a layer in heads: [head_k, n_head_kv, cells, streams] (get_k). Other kinds have one head."""
    k = g.cache(il, 0, kind)
    head, n_head = (g.head_k(il), g.n_head_kv(il)) if kind == "kv" else (k.ne[0], 1)
    row = _row(k, k.ne[0])
    return g.view(k, (head, n_head, k.ne[1], k.ne[2]), (_row(k, head), row, row * k.ne[1]))


def cached_v(g: GraphContext, il: int) -> Tensor:
    """The cached values of a layer in heads; transposed where the cache is (get_v)."""
    v = g.cache(il, 1)
    head, n_head, n_cells = g.head_v(il), g.n_head_kv(il), v.ne[1]
    row = _row(v, v.ne[0])
    if not g.context.v_trans:
        return g.view(v, (head, n_head, n_cells, v.ne[2]), (_row(v, head), row, row * n_cells))
    strides = (_row(v, n_cells * head), _row(v, n_cells), _row(v, n_cells * v.ne[0]))
    return g.view(v, (n_cells, n_head, head, v.ne[2]), strides)


def store_k(g: GraphContext, k: Tensor, idxs: Tensor, il: int, kind: str = "kv") -> Tensor:
    """The keys written into the cache (cpy_k)."""
    cache = g.cache(il, 0, kind)
    width = k.ne[0] * k.ne[1]
    flat = g.view(k, (width, k.ne[2]), (k.nb[2],))
    return g.named(g.set_rows(_one_stream(g, cache, width), flat, idxs), f"cache_k_l{il}")


def store_v(g: GraphContext, v: Tensor, idxs: Tensor, il: int) -> Tensor:
    """The values written into the cache, element by element where it is transposed (cpy_v)."""
    cache = g.cache(il, 1)
    width, n_tokens = v.ne[0] * v.ne[1], v.ne[2]
    if not g.context.v_trans:
        flat = g.view(v, (width, n_tokens), (v.nb[2],))
        return g.named(g.set_rows(_one_stream(g, cache, width), flat, idxs), f"cache_v_l{il}")
    merges = _row(v, width) == v.nb[2]
    v = g.reshape(v, width, n_tokens) if merges else g.cont(v, width, n_tokens)
    if width < cache.ne[0]:
        v = g.pad(v, cache.ne[0] - width)
    cache = g.reshape(cache, 1, cache.ne[0] * cache.ne[1] * cache.ne[2])
    return g.set_rows(cache, g.reshape(v, 1, v.ne[0] * v.ne[1]), idxs)


def _one_stream(g: GraphContext, cache: Tensor, width: int) -> Tensor:
    """All streams of a cache, one behind the other: the indices are global."""
    return g.reshape(cache, width, cache.ne[1] * cache.ne[2]) if cache.ne[2] > 1 else cache


def _row(t: Tensor, n: int) -> int:
    """Bytes of `n` elements, cut off where they are no whole blocks (ggml_row_size in a release build)."""
    return n * t.type.block_bytes // t.type.block


# --- attention


def attend(
    g: GraphContext,
    inputs: Kv | Windowed | Bare,
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    il: int,
    *,
    out: str | None = "attn_output",
    bias: bool = True,
    scale: bool = True,
    kq_b: Tensor | None = None,
    sinks: Tensor | None = None,
    v_mla: Tensor | None = None,
) -> Tensor:
    """Attention of one layer, and its output projection (`out`; None for none, with its bias and scale if handed on).

    Without `k` and `v` the layer reads what another one has stored.
    """
    if isinstance(inputs, Bare):
        x = _attend_bare(g, inputs, q, k, v, il, kq_b, sinks, v_mla)
    elif inputs.of(g, il).v_idxs is None:
        x = _attend_k(g, inputs.of(g, il), q, k, v, il, kq_b, sinks, v_mla)
    else:
        x = _attend_kv(g, inputs, q, k, v, il, kq_b, sinks, v_mla)
    return x if out is None else linear(g, x, out, il, scale=scale, bias=bias)


def _attend_bare(
    g: GraphContext,
    inputs: Bare,
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    il: int,
    kq_b: Tensor | None,
    sinks: Tensor | None,
    v_mla: Tensor | None,
) -> Tensor:
    """Without a cache (2783)."""
    if k is None or v is None:
        raise Unbuildable(f"layer {il} has nothing to attend to")
    for t in (q, k, v):
        g.expand(t)
    mask = inputs.window if g.is_swa(il) and inputs.window is not None else inputs.mask
    return mha(g, q, k, v, mask, il, kq_b, sinks, v_mla, soft_cap=inputs.soft_cap, alibi=inputs.alibi)


def _attend_k(
    g: GraphContext,
    kv: Kv,
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    il: int,
    kq_b: Tensor | None,
    sinks: Tensor | None,
    v_mla: Tensor | None,
) -> Tensor:
    """Over a cache whose keys are values, too: V is the head of each K (2981)."""
    if k is None or v is None:
        raise Unbuildable(f"layer {il} has nothing to store")
    for t in (q, v, k):
        g.expand(t)
    g.expand(store_k(g, k, kv.k_idxs, il, kv.kind))
    k = cached_k(g, il, kv.kind)
    values = g.view(k, (v.ne[0], *k.ne[1:]), k.nb[1:])
    return mha(g, q, k, values, kv.mask, il, kq_b, sinks, v_mla, soft_cap=kv.soft_cap, alibi=kv.alibi)


def _attend_kv(
    g: GraphContext,
    inputs: Kv | Windowed,
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    il: int,
    kq_b: Tensor | None,
    sinks: Tensor | None,
    v_mla: Tensor | None,
) -> Tensor:
    """Over a cache of keys and values (2868, 3115); with windows beside it, K comes before V in the graph."""
    kv = inputs.of(g, il)
    if kv.k_rot is not None:
        q = g.hadamard(q, kv.k_rot)
        k = k if k is None else g.hadamard(k, kv.k_rot)
    if kv.v_rot is not None and v is not None:
        v = g.hadamard(v, kv.v_rot)
    for t in (q, k, v) if isinstance(inputs, Windowed) else (q, v, k):
        if t is not None:
            g.expand(t)
    if k is not None:
        g.expand(store_k(g, k, kv.k_idxs, il))
    if v is not None and kv.v_idxs is not None:
        g.expand(store_v(g, v, kv.v_idxs, il))
    cached = cached_k(g, il), cached_v(g, il)
    x = mha(g, q, *cached, kv.mask, il, kq_b, sinks, v_mla, soft_cap=kv.soft_cap, alibi=kv.alibi)
    return x if kv.v_rot is None else g.hadamard(x, kv.v_rot)


def mha(
    g: GraphContext,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    il: int,
    kq_b: Tensor | None = None,
    sinks: Tensor | None = None,
    v_mla: Tensor | None = None,
    *,
    soft_cap: bool = False,
    alibi: bool = False,
) -> Tensor:
    """Attention of many heads: [heads together, n_tokens] (build_attn_mha, 2616)."""
    v_trans = v.nb[1] > v.nb[2]
    n_stream = k.ne[3]
    if not n_stream or not q.ne[2] // n_stream:
        raise Unbuildable(f"{q.ne[2]} tokens are too few for {n_stream} streams")
    n = q.ne[2] // n_stream
    q = g.view(q, (q.ne[0], q.ne[1], n, n_stream), (q.nb[1], q.nb[2], q.nb[2] * n))
    q, k, v = (g.permute(t, 0, 2, 1, 3) for t in (q, k, v))
    if g.flash_attn and kq_b is None:
        x = _flash(g, q, k, g.transpose(v) if v_trans else v, mask, il, sinks, v_mla, soft_cap, alibi)
    else:
        x = _scores(g, q, k, v, mask, kq_b, sinks, v_mla, v_trans, soft_cap, alibi)
    return g.named(g.expand(x), "kqv_out")


def _flash(
    g: GraphContext,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    il: int,
    sinks: Tensor | None,
    v_mla: Tensor | None,
    soft_cap: bool,
    alibi: bool,
) -> Tensor:
    if k.type is F32:
        k = g.cast(k, F16)
    if v.type is F32:
        v = g.cast(v, F16)
    x = g.flash_attn_ext(q, k, v, mask, sinks, alibi=alibi, soft_cap=soft_cap)
    x = g.fused(x, il, "flash_attn_ext")
    if v_mla is not None:
        x = g.mul_mat(v_mla, g.permute(x, 0, 2, 1, 3))
        x = g.cont(g.permute(x, 0, 2, 1, 3))
    return g.reshape(x, x.ne[0] * x.ne[1], x.ne[2] * x.ne[3])


def _scores(
    g: GraphContext,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    kq_b: Tensor | None,
    sinks: Tensor | None,
    v_mla: Tensor | None,
    v_trans: bool,
    soft_cap: bool,
    alibi: bool,
) -> Tensor:
    """Attention with the scores of all heads in memory."""
    kq = g.named(g.mul_mat(k, q), "kq")
    if g.model.architecture == "grok":  # scores are capped twice over (llama-graph.cpp:2691)
        kq = g.scale(g.tanh(g.scale(kq)))
    if soft_cap:
        kq = g.scale(g.tanh(g.scale(kq)))
    if kq_b is not None:
        kq = g.add(kq, kq_b)
    kq = g.named(g.soft_max(kq, mask, sinks, alibi=alibi), "kq_soft_max")
    if not v_trans:
        v = g.named(g.cont(g.transpose(v)), "v_cont")
    x = g.named(g.mul_mat(v, kq), "kqv")
    if v_mla is not None:
        x = g.mul_mat(v_mla, x)
    x = g.permute(x, 0, 2, 1, 3)
    return g.on_host(g.cont(x, x.ne[0] * x.ne[1], x.ne[2] * x.ne[3]))
