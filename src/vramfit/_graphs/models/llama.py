"""Llama 1 to 3 and what is built like it: dense or a mixture. Source: models/llama.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..feed_forward import ffn, moe
from ..parts import check_heads, embeddings, logits, norm, output_rows, positions, qkv, rope_factors, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = embeddings(g)
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        h = norm(g, x, "attn_norm", il)
        factors = rope_factors(g, il)
        q, k, v = qkv(g, h, il)
        h = attend(g, kv, g.rope(q, pos, factors), g.rope(k, pos, factors), v, il)
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        h = norm(g, x, "ffn_norm", il)
        h = moe(g, h, il, scales=True) if g.has("ffn_gate_inp.weight", il) else ffn(g, h, il, scales=True)
        x = g.end_layer(g.add(h, x))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(logits(g, x, bias=False), "result_output"))
