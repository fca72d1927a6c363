"""Falcon-H1: attention and Mamba 2 side by side in every layer. Source: models/falcon-h1.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import embeddings, logits, norm, output_rows, positions, qkv, select
from ..recurrent import mamba2, rs_input


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = embeddings(g)
    pos, rs, kv, rows = positions(g), rs_input(g), kv_input(g), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        h = attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il, bias=False)
        h = g.add(h, mamba2(g, rs, norm(g, x, "attn_norm", il), il))
        (x,) = select(g, rows, il, g.add(h, x))
        x = g.end_layer(g.add(ffn(g, norm(g, x, "ffn_norm", il), il), x))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(logits(g, x, bias=False), "result_output"))
