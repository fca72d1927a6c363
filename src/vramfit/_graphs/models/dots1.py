"""dots.llm1: experts beside a shared one behind dense layers. Source: models/dots1.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..decoder import finish, normed_rope
from ..experts import gating, routed, shared
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, norm, output_rows, positions, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = embeddings(g)
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        q, k = normed_rope(g, q, k, pos, il)
        h, x = select(g, rows, il, attend(g, kv, q, k, v, il), x)
        x = g.add(h, x)
        h = norm(g, x, "ffn_norm", il)
        if g.has("ffn_gate_inp.weight", il):
            h = g.add(routed(g, h, il, gating(g)), shared(g, h, il))
        else:
            h = ffn(g, h, il, biases=False)
        x = g.end_layer(g.add(h, x))
    finish(g, x)
