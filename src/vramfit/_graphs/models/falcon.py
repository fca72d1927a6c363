"""Falcon: attention and feed-forward side by side, from one norm or from two. Source: models/falcon.cpp."""

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
        normed = norm(g, x, "attn_norm", il, "norm")
        h = norm(g, x, "attn_norm_2", il, "norm") if g.has("attn_norm_2.weight", il) else normed
        q, k, v = qkv(g, h, il)
        h = attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il, bias=False)
        h, x, normed = select(g, rows, il, h, x, normed)
        y = ffn(g, normed, il, act="gelu", gate=None, biases=False)
        x = g.end_layer(g.add(g.add(y, h), x))
    x = g.output(norm(g, x, "output_norm", kind="norm"), "result_norm")
    g.expand(g.output(logits(g, x, bias=False), "result_output"))
