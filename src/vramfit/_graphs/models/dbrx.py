"""DBRX: limited queries, keys and values, and experts. Source: models/dbrx.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..decoder import finish
from ..feed_forward import moe
from ..parts import check_heads, embeddings, norm, output_rows, positions, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = embeddings(g)
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il, "norm"), il, clamp=True)
        h = attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il, bias=False)
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        x = g.end_layer(g.add(moe(g, norm(g, x, "attn_output_norm", il, "norm"), il), x))
    finish(g, x, "norm")
