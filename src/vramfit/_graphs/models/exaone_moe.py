"""EXAONE MoE: only layers with a window rotate; experts beside a shared one. Source: models/exaone-moe.cpp."""

from __future__ import annotations

from ..attention import attend, windowed_input
from ..context import GraphContext
from ..decoder import finish
from ..experts import beside_shared
from ..parts import check_heads, embeddings, norm, output_rows, positions, qkv, rope_factors, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = embeddings(g)
    pos, kv, rows = positions(g), windowed_input(g), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        q, k = norm(g, q, "attn_q_norm", il), norm(g, k, "attn_k_norm", il)
        if g.is_swa(il):
            factors = rope_factors(g, il)
            q, k = g.rope(q, pos, factors), g.rope(k, pos, factors)
        h, x = select(g, rows, il, attend(g, kv, q, k, v, il, bias=False), x)
        x = g.add(h, x)
        h = beside_shared(g, norm(g, x, "ffn_norm", il), il)
        x = g.end_layer(g.add(h, x))
    finish(g, x)
