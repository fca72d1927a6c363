"""Hunyuan MoE: rotated queries and keys are normed; experts beside a shared one. Source: models/hunyuan-moe.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..decoder import finish
from ..experts import shared
from ..feed_forward import moe
from ..parts import check_heads, embeddings, norm, output_rows, positions, qkv, rope_factors, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = embeddings(g)
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        factors = rope_factors(g, il)
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        q = norm(g, g.rope(q, pos, factors), "attn_q_norm", il)
        k = norm(g, g.rope(k, pos, factors), "attn_k_norm", il)
        h, x = select(g, rows, il, attend(g, kv, q, k, v, il), x)
        x = g.add(h, x)
        h = norm(g, x, "ffn_norm", il)
        x = g.end_layer(g.add(g.add(moe(g, h, il), shared(g, h, il)), x))
    finish(g, x)
