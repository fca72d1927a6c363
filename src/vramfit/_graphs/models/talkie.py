"""Talkie: norms without weights, and a scaled way around each layer. Source: models/talkie.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, logits, norm, output_rows, positions, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = skip = g.rms_norm(embeddings(g))
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, g.rms_norm(x), il, head=g.head_k())
        q, k = norm(g, g.rope(q, pos), "attn_q_norm", il), g.rms_norm(g.rope(k, pos))
        h = attend(g, kv, q, k, v, il, bias=False)
        h, x, around = select(g, rows, il, h, x, skip)
        x = g.add(h, x)
        h = ffn(g, g.rms_norm(x), il, biases=False, scales=("down",))
        x = g.add(h, x)
        x = g.end_layer(g.add(x, g.mul(around, g.need("layer_output_scale.weight", il))))
    x = g.output(g.rms_norm(x), "result_norm")
    g.expand(g.output(g.scale(logits(g, x, bias=False, scale=False)), "result_output"))
