"""PLaMo: attention and the feed-forward network read the same norm. Source: models/plamo.cpp."""

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
        normed = norm(g, x, "attn_norm", il)
        q, k, v = qkv(g, normed, il)
        h = attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il, bias=False)
        h, normed, x = select(g, rows, il, h, normed, x)
        x = g.end_layer(g.add(g.add(ffn(g, normed, il, biases=False), h), x))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(logits(g, x, bias=False), "result_output"))
