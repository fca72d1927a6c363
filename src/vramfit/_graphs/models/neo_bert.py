"""NeoBERT: an encoder that reads like a decoder, with gate and up in one matrix. Source: models/neo-bert.cpp."""

from __future__ import annotations

from ..attention import attend, bare_input
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, norm, output_rows, positions, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    x = embeddings(g)
    pos, masks, rows = positions(g), bare_input(g), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        h = attend(g, masks, g.rope(q, pos), g.rope(k, pos), v, il, bias=False)
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        h = ffn(g, norm(g, x, "ffn_norm", il), il, biases=False, act="swiglu", gate=None)
        x = g.end_layer(g.add(h, x))
    g.expand(g.output(norm(g, x, "enc.output_norm"), "result_norm"))
