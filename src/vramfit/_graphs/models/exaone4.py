"""EXAONE 4: norms behind each part; where there are windows, only their layers rotate. Source: models/exaone4.cpp."""

from __future__ import annotations

from ..attention import Windowed, attend
from ..context import GraphContext
from ..decoder import any_input, finish
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, norm, output_rows, positions, qkv, rope_factors, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = embeddings(g)
    pos, kv, rows = positions(g), any_input(g), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, x, il)
        q, k = norm(g, q, "attn_q_norm", il), norm(g, k, "attn_k_norm", il)
        if g.is_swa(il) or not isinstance(kv, Windowed):
            factors = rope_factors(g, il)
            q, k = g.rope(q, pos, factors), g.rope(k, pos, factors)
        h, x = select(g, rows, il, attend(g, kv, q, k, v, il, bias=False), x)
        x = g.add(norm(g, h, "post_attention_norm", il), x)
        h = ffn(g, x, il, biases=False)
        x = g.end_layer(g.add(norm(g, h, "post_ffw_norm", il, pinned=False), x))
    finish(g, x)
