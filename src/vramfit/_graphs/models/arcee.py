"""Arcee: squared ReLU without a gate. Source: models/arcee.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..decoder import finish
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, norm, output_rows, positions, qkv, rope_factors, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = embeddings(g)
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        factors = rope_factors(g, il)
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        h = attend(g, kv, g.rope(q, pos, factors), g.rope(k, pos, factors), v, il)
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        h = ffn(g, norm(g, x, "ffn_norm", il), il, act="relu_sqr", gate=None, biases=False)
        x = g.end_layer(g.add(h, x))
    finish(g, x)
