"""OLMo 2 and 3: norms behind each part, and over whole queries and keys. Source: models/olmo2.cpp."""

from __future__ import annotations

from ..attention import attend
from ..context import GraphContext
from ..decoder import any_input, finish, flat_heads
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, norm, output_rows, positions, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = embeddings(g)
    pos, kv, rows = positions(g), any_input(g), output_rows(g)
    for il in g.layers:
        q, k, v = flat_heads(g, x, il)
        h = attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il, bias=False)
        h, x = select(g, rows, il, h, x)
        x = g.add(norm(g, h, "post_attention_norm", il), x)
        h = ffn(g, x, il, biases=False)
        x = g.end_layer(g.add(norm(g, h, "post_ffw_norm", il, pinned=False), x))
    finish(g, x)
