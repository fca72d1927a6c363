"""Grok: scores within limits, experts beside a dense network. Source: models/grok.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..decoder import soft_capped
from ..feed_forward import ffn, moe
from ..parts import check_heads, embeddings, logits, norm, output_rows, positions, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = embeddings(g)
    if g.hp("embedding_scale", 1):
        x = g.expand(g.scale(x))
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        h = attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il)
        h, x = select(g, rows, il, h, x)
        x = g.add(norm(g, h, "attn_output_norm", il), x)
        h = norm(g, x, "ffn_norm", il)
        some = moe(g, h, il, act="gelu")
        if g.has("ffn_up.weight", il):
            some = g.scale(g.add(ffn(g, h, il, act="gelu", biases=False), some))
        last = "layer_output_norm" if g.has("layer_output_norm.weight", il) else "post_ffw_norm"
        x = g.end_layer(g.add(norm(g, some, last, il), x))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    x = soft_capped(g, g.scale(logits(g, x, bias=False)), 0)
    g.expand(g.output(x, "result_output"))
