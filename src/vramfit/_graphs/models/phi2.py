"""Phi 2: attention and feed-forward network side by side. Source: models/phi2.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..decoder import finish
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, norm, output_rows, positions, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    x = embeddings(g)
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        n = norm(g, x, "attn_norm", il, "norm")
        q, k, v = qkv(g, n, il)
        h = attend(g, kv, g.scale(g.rope(q, pos)), g.rope(k, pos), v, il)
        h, x, n = select(g, rows, il, h, x, n)
        h = g.add(h, ffn(g, n, il, act="gelu", gate=None))
        x = g.end_layer(g.add(h, x))
    finish(g, x, "norm", bias=True)
