"""OLMoE: norms over whole queries and keys, and experts. Source: models/olmoe.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..decoder import finish, flat_heads
from ..feed_forward import moe
from ..parts import check_heads, embeddings, norm, output_rows, positions, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = embeddings(g)
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        q, k, v = flat_heads(g, norm(g, x, "attn_norm", il), il)
        h = attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il, bias=False)
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        x = g.end_layer(g.add(moe(g, norm(g, x, "ffn_norm", il), il, norm=False), x))
    finish(g, x)
