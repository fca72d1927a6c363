"""Mistral 3: Llama with a temperature by position. Source: models/mistral3.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..decoder import finish
from ..feed_forward import ffn, moe
from ..parts import (
    check_heads,
    embeddings,
    norm,
    output_rows,
    positions,
    qkv,
    rope_factors,
    select,
    temperature,
)


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = embeddings(g)
    pos = positions(g)
    factor = temperature(g) if g.hp("attention.temperature_scale") else None
    kv, rows = kv_input(g), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        factors = rope_factors(g, il)
        q, k = g.rope(q, pos, factors), g.rope(k, pos, factors)
        q = q if factor is None else g.mul(q, factor)
        h, x = select(g, rows, il, attend(g, kv, q, k, v, il), x)
        x = g.add(h, x)
        h = norm(g, x, "ffn_norm", il)
        h = moe(g, h, il, scales=True) if g.has("ffn_gate_inp.weight", il) else ffn(g, h, il, scales=True)
        x = g.end_layer(g.add(h, x))
    finish(g, x)
