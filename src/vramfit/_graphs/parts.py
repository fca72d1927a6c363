"""Append the parts that most architectures share: embeddings, norms, projections, the output.

In: a `GraphContext` and tensors. Out: the tensor that a part ends with.
Source: llama-graph.cpp, the functions named beside each part.
"""

from __future__ import annotations

from collections.abc import Sequence

from .._ggml.graph import Tensor, is_contiguous
from .._ggml.ops import F32, I32, I64, Unbuildable
from .._llama.model import Home
from .context import GraphContext

__all__ = [
    "check_heads",
    "deeper",
    "embeddings",
    "flat_qkv",
    "heads",
    "linear",
    "logits",
    "n_rot",
    "norm",
    "output_matrix",
    "output_rows",
    "positions",
    "product",
    "qkv",
    "rope_factors",
    "select",
    "temperature",
    "wide",
]


def embeddings(g: GraphContext, *, deepstack: int = 0, scale: bool = False) -> Tensor:
    """Look up the embeddings of the tokens: [n_embd, n_tokens] (build_inp_embd, 2376).

    `deepstack` layers come packed behind each embedding. `scale`: whether the architecture reads its header's
    embedding_scale.
    """
    n_input = g.n_embd * (1 + deepstack)
    tokens = g.tokens = g.input("inp_tokens", I32, g.n_tokens)
    raw = g.input("inp_embd", F32, n_input, g.n_tokens)
    matrix = g.at("token_embd.weight", Home.INPUT)
    if matrix is None:
        matrix = g.need("token_embd.weight")
    x = g.looked_up(matrix, tokens)
    mixed = _mixed_rows(g, x, matrix) if g.context.era.more_inputs else None
    if deepstack:
        x = g.pad(x, n_input - g.n_embd)
    g.expand(x)
    g.expand(raw)
    if mixed is not None:
        _store_mixed(g, mixed, n_input)
    if deepstack:
        x = g.view(x, (g.n_embd, g.n_tokens), x.nb[1:2])
    if scale and g.hp("embedding_scale"):
        x = g.scale(x if is_contiguous(x) else g.cont(x))
    return g.named(g.expand(x), "embd")


# Architectures whose batches are of tokens or of embeddings in newer builds, too (llm_arch_supports_mixed_batch of b11549)
_UNMIXED = frozenset(("cogvlm", "dflash", "deepseek4", "eagle3", "gemma4-assistant", "graniteswitch"))


def _mixed_rows(g: GraphContext, x: Tensor, matrix: Tensor) -> Tensor | None:
    """The look-up of a batch's tokens where embeddings stand between them, right behind the plain one."""
    if g.model.architecture in _UNMIXED:
        return None
    g.expand(x)
    return g.expand(g.get_rows(matrix, g.input("inp_mixed_tokens", I32, g.n_tokens)))


def _store_mixed(g: GraphContext, rows: Tensor, n_input: int) -> None:
    """Those rows among the embeddings, in a copy of them (build_inp_embd of b11549; the graph goes on with the tokens)."""
    slots, raw = (
        g.input("inp_mixed_slots", I64, g.n_tokens),
        g.input("inp_mixed_embd", F32, n_input, g.n_tokens),
    )
    if n_input > g.n_embd:
        rows = g.pad(rows, n_input - g.n_embd)
    g.expand(g.set_rows(g.of("DUP", raw.ne, raw), rows, slots))


def deeper(g: GraphContext, x: Tensor, first: Tensor, level: int) -> Tensor:
    """Add the embeddings of a deeper level, which lie packed behind the first (deepstack)."""
    return g.add(x, g.view(first, (g.n_embd, g.n_tokens), first.nb[1:2], level * g.n_embd * F32.block_bytes))


def positions(g: GraphContext, per_token: int = 1) -> Tensor:
    """Append the input of each token's position; some rotations have four for each (build_inp_pos, 2465)."""
    return g.input("inp_pos", I32, g.n_tokens * per_token)


def temperature(g: GraphContext) -> Tensor:
    """Append the input of a factor for the queries of each token (build_inp_attn_scale, 2479)."""
    return g.input("inp_attn_scale", F32, 1, 1, g.n_tokens)


def output_rows(g: GraphContext) -> Tensor:
    """Append the input that lists the tokens with an output (build_inp_out_ids, 2494)."""
    return g.input("out_ids", I32, g.n_outputs)


def select(g: GraphContext, rows: Tensor, il: int, *tensors: Tensor) -> Sequence[Tensor]:
    """Keep, in the last layer, only the rows that have an output; return the tensors as they are in others."""
    return [g.get_rows(t, rows) for t in tensors] if g.is_last(il) else tensors


def norm(
    g: GraphContext,
    x: Tensor,
    name: str,
    il: int | None = None,
    kind: str = "rms_norm",
    *,
    pinned: bool = True,
    beside: int | None = None,
) -> Tensor:
    """Append a norm with the weight and the bias that the model has for it (build_norm, 1597).

    `kind` is "rms_norm" or "norm". With `pinned` it stays on its layer's device; one that is of no layer, on that of
    the layer `beside` it. Weights of a few architectures have the bare name.
    """
    weight, bias = g.w(f"{name}.weight", il), g.w(f"{name}.bias", il)
    weight = g.w(name, il) if weight is None else weight
    x = getattr(g, kind)(x)
    layer = il if beside is None else beside
    if pinned and layer is not None and (weight is not None or bias is not None):
        g.pin(x, layer)
    x.name = "norm"
    if weight is not None:
        x = g.mul(x, weight)
    if bias is not None:
        x = g.add(x, bias)
    return g.named(x, name)


def linear(
    g: GraphContext, x: Tensor, name: str, il: int | None = None, *, scale: bool = True, bias: bool = True
) -> Tensor:
    """Append a projection, with its scale and its bias where the model has them (build_lora_mm, 1520)."""
    factor = g.w(f"{name}.scale", il) if scale else None
    x = g.named(g.mul_mat(g.need(f"{name}.weight", il), x, scale=factor), name)
    if bias:
        more = g.w(f"{name}.bias", il)
        x = x if more is None else g.named(g.add(x, more), name)
    return x


def product(g: GraphContext, x: Tensor, *names: str, il: int) -> Tensor:
    """Multiply by one matrix after the other, without scales or biases."""
    for name in names:
        x = g.mul_mat(g.need(f"{name}.weight", il), x)
    return x


def wide(g: GraphContext, x: Tensor, head: int, n_head: int) -> Tensor:
    """Cut rows into heads: [head, n_head, n_tokens]."""
    return g.reshape(x, head, n_head, g.n_tokens)


def n_rot(g: GraphContext, il: int = 0) -> int:
    """Count the elements of a head that are rotated (hparams.n_rot; llama-model.cpp:1448-1470)."""
    heads = g.n_head()
    default = g.n("attention.key_length", g.n_embd // heads) if heads else 0
    full = g.n("rope.dimension_count", default) if heads else 0
    return g.n("rope.dimension_count_swa", full) if g.is_swa(il) else full


def check_heads(g: GraphContext, *, rotated: bool = True) -> None:
    """Raise `Unbuildable` where keys and values differ in size, or are not `rotated` as a whole: the engine asserts so."""
    if g.head_k() != g.head_v() or (rotated and g.head_k() != n_rot(g)):
        raise Unbuildable(f"heads of {g.head_k()} and {g.head_v()} elements, of which {n_rot(g)} are rotated")


def qkv(
    g: GraphContext,
    x: Tensor,
    il: int,
    *,
    head: int | None = None,
    n_head: int | None = None,
    n_head_kv: int | None = None,
    clamp: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Project queries, keys and values, cut into heads, by one matrix or by three (build_qkv, 1633-1759).

    `head` is the size of all three (head_v by default), and the heads are layer 0's where none are given.
    `clamp`: the architecture limits them where its header says so.
    """
    size = g.head_v() if head is None else head
    n_q = g.n_head() if n_head is None else n_head
    n_kv = g.n_head_kv() if n_head_kv is None else n_head_kv
    clamps = clamp and g.hp("attention.clamp_kqv") > 0
    if g.has("attn_qkv.weight", il):
        return _fused_qkv(g, x, il, size, n_q, n_kv, clamps)
    found = []
    for name, n in (("attn_q", n_q), ("attn_k", n_kv), ("attn_v", n_kv)):
        t = linear(g, x, name, il)
        found.append((g.clamp(t) if clamps else t, n))
    q, k, v = (wide(g, t, size, n) for t, n in found)
    return g.named(q, "Qcur"), g.named(k, "Kcur"), g.named(v, "Vcur")


def _fused_qkv(
    g: GraphContext, x: Tensor, il: int, head: int, n_head: int, n_head_kv: int, clamps: bool
) -> tuple[Tensor, Tensor, Tensor]:
    x = _fused_rows(g, x, il)
    if clamps:
        x = g.clamp(x)
    return heads(g, x, head, (n_head, n_head_kv, n_head_kv))


def _fused_rows(g: GraphContext, x: Tensor, il: int) -> Tensor:
    """Project queries, keys and values side by side, with one bias for all or one for each."""
    x = linear(g, x, "attn_qkv", il)
    q, k, v = (g.w(f"attn_{c}.bias", il) for c in "qkv")
    if not g.has("attn_qkv.bias", il) and q is not None and k is not None and v is not None:
        x = g.add(x, g.concat(g.concat(q, k, 0), v, 0))
    return x


def flat_qkv(
    g: GraphContext, x: Tensor, il: int, widths: tuple[int, int, int], *, bias: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Project queries, keys and values in rows, not cut into heads and never limited (build_qkv without reshape).

    `widths` are the elements of each in a row, which one matrix for all three is cut by.
    """
    if not g.has("attn_qkv.weight", il):
        q, k, v = (linear(g, x, f"attn_{name}", il, bias=bias) for name in "qkv")
        return q, k, v
    x = _fused_rows(g, x, il)
    found, at = [], 0
    for n in widths:
        found.append(g.cont(g.view(x, (n, g.n_tokens), (x.nb[1],), at * x.nb[0])))
        at += n
    return found[0], found[1], found[2]


def heads(
    g: GraphContext, x: Tensor, head: int, counts: tuple[int, int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """View queries, keys and values in one tensor in which they lie side by side."""
    row, found, at = head * x.type.block_bytes, [], 0
    for n in counts:
        found.append(g.view(x, (head, n, g.n_tokens), (row, x.nb[1]), at))
        at += n * row
    return g.named(found[0], "Qcur"), g.named(found[1], "Kcur"), g.named(found[2], "Vcur")


def rope_factors(g: GraphContext, il: int) -> Tensor | None:
    """Find the layer's RoPE factors, where the model has some: for long contexts or short ones (llama-model.cpp:2337)."""
    found = g.w("rope_freqs.weight", il)
    if found is not None:
        return found
    trained = g.n("rope.scaling.original_context_length", g.model.n_ctx_train)
    return g.w(f"rope_factors_{'long' if g.context.n_ctx_seq > trained else 'short'}.weight", il)


def output_matrix(g: GraphContext) -> Tensor:
    """Find the matrix of the logits: its own, or the embedding's, created again for the output."""
    for name in ("output.weight", "token_embd.weight"):
        found = g.at(name, Home.OUTPUT)
        if found is not None:
            return found
    return g.need("token_embd.weight")


def logits(g: GraphContext, x: Tensor, *, bias: bool = True, scale: bool = True) -> Tensor:
    """Append the logits: the output matrix, its scale and its bias where the model has them; not marked as output yet."""
    factor, more = g.w("output.scale") if scale else None, g.w("output.bias")
    x = g.mul_mat(output_matrix(g), x, scale=factor)
    return x if more is None or not bias else g.add(x, more)
