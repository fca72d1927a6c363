"""Llama without a cache, for embeddings. Source: models/llama-embed.cpp."""

from __future__ import annotations

from ..attention import attend, bare_input
from ..context import GraphContext
from ..feed_forward import ffn, moe
from ..parts import check_heads, embeddings, norm, output_rows, positions, qkv, rope_factors, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = embeddings(g)
    pos, masks, rows = positions(g), bare_input(g), output_rows(g)
    for il in g.layers:
        factors = rope_factors(g, il)
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        h = attend(g, masks, g.rope(q, pos, factors), g.rope(k, pos, factors), v, il)
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        h = norm(g, x, "ffn_norm", il)
        h = moe(g, h, il, scales=True) if g.has("ffn_gate_inp.weight", il) else ffn(g, h, il, scales=True)
        x = g.end_layer(g.add(h, x))
    g.expand(g.output(norm(g, x, "output_norm"), "result_norm"))
