"""Gemma 2: windows in every other layer, capped scores, norms before and behind each part. Source: models/gemma2.cpp."""

from __future__ import annotations

from ..attention import attend, windowed_input
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import embeddings, logits, norm, output_rows, positions, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = g.scale(embeddings(g))
    pos, kv, rows = positions(g), windowed_input(g, soft_cap=True), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il, head=g.head_k())
        h = attend(g, kv, g.scale(g.rope(q, pos)), g.rope(k, pos), v, il, bias=False)
        h, x = select(g, rows, il, h, x)
        x = g.add(norm(g, h, "post_attention_norm", il), x)
        h = ffn(g, norm(g, x, "ffn_norm", il), il, act="gelu", biases=False)
        x = g.end_layer(g.add(norm(g, h, "post_ffw_norm", il, pinned=False), x))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    x = g.scale(g.tanh(g.scale(logits(g, x, bias=False))))
    g.expand(g.output(x, "result_output"))
