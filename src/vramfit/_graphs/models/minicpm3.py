"""MiniCPM 3: latent queries, keys and values, spread out before they are cached. Source: models/minicpm3.cpp."""

from __future__ import annotations

from ..._ggml.graph import Tensor
from ..attention import attend, kv_input
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import embeddings, linear, logits, norm, output_rows, positions, rope_factors, select, wide

__all__ = ["build", "spread"]


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = g.scale(embeddings(g))
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        factors = rope_factors(g, il)
        h = norm(g, x, "attn_norm", il)
        q = norm(g, linear(g, h, "attn_q_a", il, scale=False, bias=False), "attn_q_a_norm", il)
        q = wide(g, linear(g, q, "attn_q_b", il, scale=False, bias=False), g.head_k(), g.n_head())
        k, v = spread(g, h, pos, factors, il)
        h = attend(g, kv, g.rope(q, pos, factors), k, v, il, bias=False)
        h, x = select(g, rows, il, h, x)
        x = g.add(g.scale(h), x)
        h = ffn(g, norm(g, x, "ffn_norm", il), il, biases=False)
        x = g.end_layer(g.add(g.scale(h), x))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(logits(g, g.scale(x), bias=False), "result_output"))


def spread(g: GraphContext, x: Tensor, pos: Tensor, factors: Tensor | None, il: int) -> tuple[Tensor, Tensor]:
    """Keys and values of all heads from one latent row; the rotated part of the keys is the same for all heads."""
    rank, turned = g.n("attention.kv_lora_rank"), g.n("rope.dimension_count", g.head_k())
    still, head_v, n_head = g.head_k() - turned, g.head_v(), g.n_head()
    t = linear(g, x, "attn_kv_a_mqa", il, scale=False, bias=False)
    latent = g.view(t, (rank, g.n_tokens), t.nb[1:2])
    part = g.view(t, (turned, 1, g.n_tokens), (t.nb[1], t.nb[1]), rank * t.nb[0])
    latent = norm(g, latent, "attn_kv_a_norm", il)
    t = linear(g, latent, "attn_kv_b", il, scale=False, bias=False)
    row = (still + head_v) * t.nb[0]
    k = g.view(t, (still, n_head, g.n_tokens), (row, n_head * row))
    v = g.cont(g.view(t, (head_v, n_head, g.n_tokens), (row, n_head * row), still * t.nb[0]))
    return g.concat(k, g.repeat(g.rope(part, pos, factors), turned, n_head, g.n_tokens), 0), v
