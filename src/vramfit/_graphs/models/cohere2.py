"""Command R7B and Command A: only layers with a window rotate. Source: models/cohere2.cpp."""

from __future__ import annotations

from ..attention import attend, windowed_input
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, logits, norm, output_rows, positions, qkv, rope_factors, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    x = embeddings(g)
    pos, kv, rows = positions(g), windowed_input(g), output_rows(g)
    for il in g.layers:
        n = norm(g, x, "attn_norm", il, "norm")
        q, k, v = qkv(g, n, il)
        if g.is_swa(il):
            factors = rope_factors(g, il)
            q, k = g.rope(q, pos, factors), g.rope(k, pos, factors)
        h, x, n = select(g, rows, il, attend(g, kv, q, k, v, il), x, n)
        x = g.end_layer(g.add(g.add(ffn(g, n, il, biases=False, scales=True), x), h))
    x = g.output(norm(g, x, "output_norm", kind="norm"), "result_norm")
    x = logits(g, x, bias=False)
    g.expand(g.output(g.scale(x) if g.hp("logit_scale") else x, "result_output"))
