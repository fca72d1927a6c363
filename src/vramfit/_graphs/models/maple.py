"""Maple: only layers with a window rotate; limited experts. Source: models/maple.cpp."""

from __future__ import annotations

from ..attention import attend, windowed_input
from ..context import GraphContext
from ..decoder import finish
from ..feed_forward import NO_LIMIT, moe
from ..parts import check_heads, embeddings, norm, output_rows, positions, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    x = embeddings(g)
    pos, kv, rows = positions(g), windowed_input(g), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        q, k = norm(g, q, "attn_q_norm", il), norm(g, k, "attn_k_norm", il)
        if g.is_swa(il):
            q, k = g.rope(q, pos), g.rope(k, pos)
        h, x = select(g, rows, il, attend(g, kv, q, k, v, il, bias=False), x)
        x = g.add(h, x)
        clamp = "op" if g.hp("swiglu_clamp_exp", 0, il) > NO_LIMIT else ""
        h = moe(g, norm(g, x, "ffn_norm", il), il, clamp=clamp)
        x = g.end_layer(g.add(h, x))
    finish(g, x)
