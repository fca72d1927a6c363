"""Qwen2: the plain decoder, with biases on Q, K and V. Source: models/qwen2.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, logits, norm, output_rows, positions, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = embeddings(g)
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        h = norm(g, x, "attn_norm", il)
        q, k, v = qkv(g, h, il)
        h = attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il)
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        x = g.end_layer(g.add(ffn(g, norm(g, x, "ffn_norm", il), il, biases=False), x))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(logits(g, x), "result_output"))
