"""Append attention: its inputs and masks, what it stores in a cache and reads back, and the products between.

In: a `GraphContext`, queries, keys and values in heads. Out: the result behind the output projection.
`kv_input` and its kin are what a graph makes once (inputs and masks); `attend` is what each layer makes of them.
Source: `build_attn_inp_*`, `build_attn` and `build_attn_mha` (llama-graph.cpp:2616-3460), `get_k` .. `cpy_v`
(llama-kv-cache.cpp:1276-1417).
"""

from __future__ import annotations

from typing import Final, NamedTuple

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
    "Scoring",
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
    "values_in",
    "windowed_input",
]

_SCALED_LAST: Final = frozenset(("glm4", "glm4moe", "jais2"))
ROTATED: Final = 64  # head sizes that a rotation of quantized caches divides (llama-kv-cache.cpp:325)


class Kv(NamedTuple):
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
        """Return the inputs for a layer: the same for all."""
        return self


class Windowed(NamedTuple):
    """Two caches: one for layers that see all, one for layers that see a window (llm_graph_input_attn_kv_iswa)."""

    full: Kv
    window: Kv

    def of(self, g: GraphContext, il: int) -> Kv:
        """Return the inputs for a layer: those of windows where it sees one."""
        return self.window if g.is_swa(il) else self.full


class Bare(NamedTuple):
    """The masks of attention without a cache (llm_graph_input_attn_no_cache)."""

    mask: Tensor
    window: Tensor | None = None
    soft_cap: bool = False
    alibi: bool = False


# --- inputs


def mask_type(g: GraphContext) -> TensorType:
    """Choose the type of a mask: flash attention wants f16."""
    return F16 if g.flash_attn else F32


def mask_input(g: GraphContext, name: str, *ne: int) -> Tensor:
    """Append a mask of extents `ne`, in the type that attention reads; older builds made it in f32 and cast it for flash attention (#23764)."""
    if g.flash_attn and g.context.era.f32_mask:
        return g.cast(g.input(name, F32, *ne), F16)
    return g.input(name, mask_type(g), *ne)


def bare_input(g: GraphContext, *, soft_cap: bool = False, alibi: bool = False) -> Bare:
    """Append the masks among the tokens of the batch; a second one where some layers see a window."""
    n = g.n_tokens
    mask = mask_input(g, "self_kq_mask", n, n)
    windowed = any(g.is_swa(il) for il in g.known.trunk)
    return Bare(mask, mask_input(g, "self_kq_mask_swa", n, n) if windowed else None, soft_cap, alibi)


def kv_input(g: GraphContext, *, soft_cap: bool = False, alibi: bool = False) -> Kv:
    """Append the inputs for a cache that all layers with attention have (build_attn_inp_kv, 2860)."""
    return _kv(g, [x for x in g.model.layers if x.caches], soft_cap, alibi)


def windowed_input(
    g: GraphContext, *, soft_cap: bool = False, alibi: bool = False, rotates: bool = True
) -> Windowed:
    """Append the inputs for a cache of whole contexts and one of windows (build_attn_inp_kv_iswa, 3425).

    Beside recurrent states a quantized cache is not rotated (build_inp_mem_hybrid_iswa, 3646): no `rotates`.
    """
    layers = [x for x in g.model.layers if x.caches]
    full, window = (_kv(g, [x for x in layers if x.is_swa == swa], soft_cap, alibi) for swa in (False, True))
    if not rotates:
        full, window = (x._replace(k_rot=None, v_rot=None) for x in (full, window))
    return Windowed(full, window)


def k_input(g: GraphContext, layers: list[Layer] | None = None, kind: str = "kv") -> Kv:
    """Append the inputs for a cache of keys that are values, too (build_attn_inp_k, 2973)."""
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
    """Count the cells that a layer's attention sees in a full cache; of a cache without layers, those of a context."""
    for layer in layers:
        for cache in layer.caches:
            if cache.kind == kind:
                return cells(cache, g.context)
    return g.context.n_ctx_seq


def kq_mask(g: GraphContext, n_cells: int, type_: TensorType | None = None) -> Tensor:
    """Append the mask of the cells that each token may see: [n_kv, tokens of a stream, 1, streams] (llama-graph.cpp:29)."""
    n_stream = 1 if g.context.kv_unified else g.n_seqs
    ne = (n_cells, g.n_tokens // n_stream, 1, n_stream)
    if type_ is None:
        return mask_input(g, "attn_inp_kq_mask", *ne)
    return g.input("attn_inp_kq_mask", type_, *ne)


def rotation(
    g: GraphContext, name: str, type_: TensorType, first: int, heads: list[int], *, smallest: bool = False
) -> Tensor | None:
    """Append the matrix that rotates what a quantized cache stores, None for no rotation (llama-kv-cache.cpp:321-338, 1447-1490).

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
    """View the cached keys of a layer in heads: [head_k, n_head_kv, cells, streams] (get_k). Other kinds have one head."""
    k = g.cache(il, 0, kind)
    head, n_head = (g.head_k(il), g.n_head_kv(il)) if kind == "kv" else (k.ne[0], 1)
    row = _row(k, k.ne[0])
    return g.view(k, (head, n_head, k.ne[1], k.ne[2]), (_row(k, head), row, row * k.ne[1]))


def cached_v(g: GraphContext, il: int) -> Tensor:
    """View the cached values of a layer in heads; transposed where the cache is (get_v)."""
    v = g.cache(il, 1)
    head, n_head, n_cells = g.head_v(il), g.n_head_kv(il), v.ne[1]
    row = _row(v, v.ne[0])
    if not g.context.v_trans:
        return g.view(v, (head, n_head, n_cells, v.ne[2]), (_row(v, head), row, row * n_cells))
    strides = (_row(v, n_cells * head), _row(v, n_cells), _row(v, n_cells * v.ne[0]))
    return g.view(v, (n_cells, n_head, head, v.ne[2]), strides)


def store_k(g: GraphContext, k: Tensor, idxs: Tensor, il: int, kind: str = "kv") -> Tensor:
    """Write keys into the cache (cpy_k)."""
    cache = g.cache(il, 0, kind)
    width = k.ne[0] * k.ne[1]
    flat = g.view(k, (width, k.ne[2]), (k.nb[2],))
    return g.named(g.set_rows(_one_stream(g, cache, width), flat, idxs), f"cache_k_l{il}")


def store_v(g: GraphContext, v: Tensor, idxs: Tensor, il: int) -> Tensor:
    """Write values into the cache, element by element where it is transposed (cpy_v)."""
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
    """View all streams of a cache as one, since the indices are global."""
    return g.reshape(cache, width, cache.ne[1] * cache.ne[2]) if cache.ne[2] > 1 else cache


def _row(t: Tensor, n: int) -> int:
    """Count the bytes of `n` elements, rounded down to whole blocks (ggml_row_size in a release build)."""
    return n * t.type.block_bytes // t.type.block


# --- attention


class Scoring(NamedTuple):
    """What attention in layer `il` takes beside queries, keys and values (the arguments of build_attn_mha)."""

    il: int
    mask: Tensor | None
    kq_b: Tensor | None = None  # is added to the scores
    sinks: Tensor | None = None
    v_mla: Tensor | None = None  # turns the result of latent attention into values
    soft_cap: bool = False
    alibi: bool = False


def attend(
    g: GraphContext, inputs: Kv | Windowed | Bare, q: Tensor, k: Tensor | None, v: Tensor | None, il: int,
    *, out: str | None = "attn_output", bias: bool = True, scale: bool = True,
    kq_b: Tensor | None = None, sinks: Tensor | None = None, v_mla: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Append the attention of one layer, and its output projection (`out`; None for none, with its bias and scale if handed on).

    Without `k` and `v` the layer reads what another one has stored.
    """
    if isinstance(inputs, Bare):
        mask = inputs.window if g.is_swa(il) and inputs.window is not None else inputs.mask
        x = _attend_bare(g, q, k, v, Scoring(il, mask, kq_b, sinks, v_mla, inputs.soft_cap, inputs.alibi))
    else:
        kv = inputs.of(g, il)
        how = Scoring(il, kv.mask, kq_b, sinks, v_mla, kv.soft_cap, kv.alibi)
        x = _attend_k(g, kv, q, k, v, how) if kv.v_idxs is None else _attend_kv(g, inputs, q, k, v, how)
    if out is None:
        return x
    if scale and g.is_adapted(f"{out}.weight", il) and g.model.architecture in _SCALED_LAST:
        return _scaled_last(g, x, out, il, bias)
    return linear(g, x, out, il, scale=scale, bias=bias)


def _scaled_last(g: GraphContext, x: Tensor, out: str, il: int, bias: bool) -> Tensor:
    """Project by a matrix whose scale applies to what adapters add, too (llama-graph.cpp:2933)."""
    x = linear(g, x, out, il, scale=False, bias=False)
    factor, more = g.w(f"{out}.scale", il), g.w(f"{out}.bias", il)
    x = x if factor is None else g.mul(x, factor)
    return x if more is None or not bias else g.add(x, more)


def _attend_bare(g: GraphContext, q: Tensor, k: Tensor | None, v: Tensor | None, how: Scoring) -> Tensor:
    """Attend among the tokens of the batch, without a cache (2783)."""
    if k is None or v is None:
        raise Unbuildable(f"layer {how.il} has nothing to attend to")
    for t in (q, k, v):
        g.expand(t)
    return mha(g, q, k, v, how)


def _attend_k(g: GraphContext, kv: Kv, q: Tensor, k: Tensor | None, v: Tensor | None, how: Scoring) -> Tensor:
    """Attend over a cache whose keys are values, too: V is the head of each K (2981)."""
    if k is None or v is None:
        raise Unbuildable(f"layer {how.il} has nothing to store")
    for t in (q, v, k):
        g.expand(t)
    g.expand(store_k(g, k, kv.k_idxs, how.il, kv.kind))
    k = cached_k(g, how.il, kv.kind)
    return mha(g, q, k, values_in(g, k, v.ne[0]), how)


def values_in(g: GraphContext, k: Tensor, width: int) -> Tensor:
    """View the values of a cache whose keys are values, too: the first `width` elements of each key."""
    return g.view(k, (width, *k.ne[1:]), k.nb[1:])


def _attend_kv(
    g: GraphContext, inputs: Kv | Windowed, q: Tensor, k: Tensor | None, v: Tensor | None, how: Scoring
) -> Tensor:
    """Attend over a cache of keys and values (2868, 3115); with windows beside it, K comes before V in the graph."""
    il = how.il
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
    x = mha(g, q, cached_k(g, il), cached_v(g, il), how)
    return x if kv.v_rot is None else g.hadamard(x, kv.v_rot)


def mha(g: GraphContext, q: Tensor, k: Tensor, v: Tensor, how: Scoring) -> Tensor:
    """Append attention of many heads: [heads together, n_tokens] (build_attn_mha, 2616)."""
    v_trans = v.nb[1] > v.nb[2]
    n_stream = k.ne[3]
    if not n_stream or not q.ne[2] // n_stream:
        raise Unbuildable(f"{q.ne[2]} tokens are too few for {n_stream} streams")
    n = q.ne[2] // n_stream
    q = g.view(q, (q.ne[0], q.ne[1], n, n_stream), (q.nb[1], q.nb[2], q.nb[2] * n))
    q, k, v = (g.permute(t, 0, 2, 1, 3) for t in (q, k, v))
    if g.flash_attn and how.kq_b is None:
        x = _flash(g, q, k, g.transpose(v) if v_trans else v, how)
    else:
        x = _scores(g, q, k, v, v_trans, how)
    return g.named(g.expand(x), "kqv_out")


def _flash(g: GraphContext, q: Tensor, k: Tensor, v: Tensor, how: Scoring) -> Tensor:
    """Append flash attention: one operation, which holds no scores."""
    if k.type is F32:
        k = g.cast(k, F16)
    if v.type is F32:
        v = g.cast(v, F16)
    x = g.flash_attn_ext(q, k, v, how.mask, how.sinks, alibi=how.alibi, soft_cap=how.soft_cap)
    x = g.fused(x, how.il, "flash_attn_ext")
    if how.v_mla is not None:
        x = g.mul_mat(how.v_mla, g.permute(x, 0, 2, 1, 3))
        x = g.cont(g.permute(x, 0, 2, 1, 3))
    return g.reshape(x, x.ne[0] * x.ne[1], x.ne[2] * x.ne[3])


def _scores(g: GraphContext, q: Tensor, k: Tensor, v: Tensor, v_trans: bool, how: Scoring) -> Tensor:
    """Append attention with the scores of all heads in memory."""
    kq = g.named(g.mul_mat(k, q), "kq")
    if g.model.architecture == "grok":  # scores are capped twice over (llama-graph.cpp:2691)
        kq = g.scale(g.tanh(g.scale(kq)))
    if how.soft_cap:
        kq = g.scale(g.tanh(g.scale(kq)))
    if how.kq_b is not None:
        kq = g.add(kq, how.kq_b)
    kq = g.named(g.soft_max(kq, how.mask, how.sinks, alibi=how.alibi), "kq_soft_max")
    if not v_trans:
        v = g.named(g.cont(g.transpose(v)), "v_cont")
    x = g.named(g.mul_mat(v, kq), "kqv")
    if how.v_mla is not None:
        x = g.mul_mat(how.v_mla, x)
    x = g.permute(x, 0, 2, 1, 3)
    return g.on_host(g.cont(x, x.ne[0] * x.ne[1], x.ne[2] * x.ne[3]))
