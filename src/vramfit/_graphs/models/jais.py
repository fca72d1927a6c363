"""Jais: biased scores in place of positions. Source: models/jais.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, logits, norm, output_rows, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    x = embeddings(g)
    kv, rows = kv_input(g, alibi=g.hp("attention.max_alibi_bias") > 0), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il, "norm"), il)
        h = attend(g, kv, q, k, v, il)
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        h = ffn(g, norm(g, x, "ffn_norm", il, "norm"), il)
        x = g.end_layer(g.add(h, x))
    x = g.output(norm(g, x, "output_norm", kind="norm"), "result_norm")
    g.expand(g.output(logits(g, x, bias=False), "result_output"))
