"""Project for latent attention (MLA): keys and values of all heads from one short row, which is what the cache holds.

In: a `GraphContext`, the normed input of a layer. Out: queries, keys and values for `attention.attend`.
With the key matrix folded into the queries every head reads the same row, which is its value, too.
Source: models/deepseek2.cpp, and the same part of the architectures that took it over.
"""

from __future__ import annotations

from dataclasses import dataclass

from .._ggml.graph import Tensor
from .context import GraphContext
from .parts import n_rot, norm, product

__all__ = [
    "Sizes",
    "absorbed",
    "compressed",
    "decompressed",
    "low_rank",
    "n_rot",
    "queries",
    "sizes",
    "split",
]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Elements of a query head, of the value that it ends with, of its rotated part, and of the latent row."""

    head: int
    head_v: int
    rope: int
    rank: int

    @property
    def nope(self) -> int:
        """Elements of a query head that are not rotated."""
        return self.head - self.rope


def sizes(g: GraphContext) -> Sizes:
    """Read the sizes of the heads behind the key and value matrices (n_embd_head_k_mla)."""
    mla = g.model.is_mla
    head = g.n("attention.key_length_mla") if mla else g.head_k()
    head_v = g.n("attention.value_length_mla") if mla else g.head_v()
    return Sizes(head, head_v, n_rot(g), g.n("attention.kv_lora_rank"))


def low_rank(g: GraphContext, x: Tensor, il: int) -> Tensor:
    """Make the short row that queries are made of."""
    return norm(g, product(g, x, "attn_q_a", il=il), "attn_q_a_norm", il)


def queries(g: GraphContext, x: Tensor, il: int) -> Tensor:
    """Project queries side by side: from a short row where the layer has matrices for one, else from `x`."""
    if g.has("attn_q.weight", il):
        return product(g, x, "attn_q", il=il)
    return product(g, low_rank(g, x, il), "attn_q_b", il=il)


def split(g: GraphContext, q: Tensor, s: Sizes, n_head: int) -> tuple[Tensor, Tensor]:
    """View the parts of each query that are not rotated, and those that are: [.., n_head, n_tokens]."""
    element = q.type.block_bytes
    strides = (s.head * element, s.head * element * n_head)
    nope = g.view(q, (s.nope, n_head, g.n_tokens), strides)
    return nope, g.view(q, (s.rope, n_head, g.n_tokens), strides, s.nope * element)


def compressed(g: GraphContext, x: Tensor, il: int, s: Sizes) -> tuple[Tensor, Tensor]:
    """Make the latent row, normed, and the rotated part of the key that all heads share: [rope, 1, n_tokens]."""
    t = product(g, x, "attn_kv_a_mqa", il=il)
    element = t.type.block_bytes
    row = (s.rank + s.rope) * element
    latent = g.view(t, (s.rank, g.n_tokens), (row,))
    k_pe = g.view(t, (s.rope, 1, g.n_tokens), (row, row), s.rank * element)
    return norm(g, latent, "attn_kv_a_norm", il), k_pe


def absorbed(
    g: GraphContext, q_nope: Tensor, q_pe: Tensor, latent: Tensor, k_pe: Tensor, il: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Make queries, keys and values of one key head, with the key matrix folded into the queries."""
    q = g.mul_mat(g.need("attn_k_b.weight", il), g.permute(q_nope, 0, 2, 1, 3))
    q = g.concat(g.permute(q, 0, 2, 1, 3), q_pe, 0)
    v = g.reshape(latent, latent.ne[0], 1, g.n_tokens)
    return g.named(q, "Qcur"), g.named(g.concat(v, k_pe, 0), "Kcur"), v


def decompressed(
    g: GraphContext, latent: Tensor, k_pe: Tensor, il: int, s: Sizes, n_head: int
) -> tuple[Tensor, Tensor]:
    """Make keys and values of all heads, by the matrix of old files that makes both."""
    t = product(g, latent, "attn_kv_b", il=il)
    element = t.type.block_bytes
    row = (s.nope + s.head_v) * element
    k = g.view(t, (s.nope, n_head, g.n_tokens), (row, row * n_head))
    v = g.cont(g.view(t, (s.head_v, n_head, g.n_tokens), (row, row * n_head), s.nope * element))
    pe = g.repeat(k_pe, s.rope, n_head, g.n_tokens)
    return g.concat(k, pe, 0), v
