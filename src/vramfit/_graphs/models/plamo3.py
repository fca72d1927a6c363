"""PLaMo 3: attention, in some models with windows. Source: models/plamo3.cpp."""

from __future__ import annotations

from ..attention import kv_input, windowed_input
from ..context import GraphContext
from ..parts import embeddings, norm, output_rows, positions, select
from ..plamo import attention, feed_forward, finish


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = embeddings(g)
    windowed = g.n("attention.sliding_window") > 0
    pos, kv, rows = positions(g), windowed_input(g) if windowed else kv_input(g), output_rows(g)
    for il in g.layers:
        h = attention(g, kv, norm(g, x, "attn_norm", il), pos, il)
        h, x = select(g, rows, il, h, x)
        x = feed_forward(g, h, x, il)
    finish(g, x)
