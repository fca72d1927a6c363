"""Phi 3, Phi 4 and Phi MoE: gate and up in one matrix, or experts. Source: models/phi3.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..decoder import finish
from ..feed_forward import ffn, moe
from ..parts import check_heads, embeddings, norm, output_rows, positions, qkv, rope_factors, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    x = embeddings(g)
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        factors = rope_factors(g, il)
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        q, k = g.scale(g.rope(q, pos, factors)), g.rope(k, pos, factors)
        h, x = select(g, rows, il, attend(g, kv, q, k, v, il), x)
        x = g.add(h, x)
        h = norm(g, x, "ffn_norm", il)
        if g.has("ffn_gate_inp.weight", il):
            h = moe(g, h, il)
        else:
            h = ffn(g, h, il, act="swiglu", gate=None, biases=False)
        x = g.end_layer(g.add(x, h))
    finish(g, x, bias=True)
