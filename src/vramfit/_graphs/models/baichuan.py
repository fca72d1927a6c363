"""Baichuan: rotary positions in the small model, biased scores in the large one. Source: models/baichuan.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, logits, norm, output_rows, positions, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = embeddings(g)
    turns, biased = g.n_layer == 32, g.n_layer == 40  # 7B and 13B
    pos, kv, rows = positions(g), kv_input(g, alibi=biased), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        if turns:
            q, k = g.rope(q, pos), g.rope(k, pos)
        h = attend(g, kv, q, k, v, il, bias=False)
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        h = ffn(g, norm(g, x, "ffn_norm", il), il, biases=False)
        x = g.end_layer(g.add(h, x))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(logits(g, x, bias=False), "result_output"))
