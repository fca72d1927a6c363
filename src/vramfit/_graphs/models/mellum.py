"""Mellum 2: windows and experts. Source: models/mellum.cpp."""

from __future__ import annotations

from ..attention import attend
from ..context import GraphContext
from ..decoder import any_input, finish, normed_rope
from ..feed_forward import moe
from ..parts import check_heads, embeddings, norm, output_rows, positions, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = embeddings(g)
    pos, kv, rows = positions(g), any_input(g), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        q, k = normed_rope(g, q, k, pos, il)
        h, x = select(g, rows, il, attend(g, kv, q, k, v, il), x)
        x = g.add(h, x)
        x = g.end_layer(g.add(moe(g, norm(g, x, "ffn_norm", il), il, scales=True), x))
    finish(g, x)
