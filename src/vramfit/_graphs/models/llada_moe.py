"""LLaDA MoE: a diffusion model with a mixture, no cache. Source: models/llada-moe.cpp."""

from __future__ import annotations

from ..attention import attend, bare_input
from ..context import GraphContext
from ..feed_forward import moe
from ..parts import check_heads, embeddings, logits, norm, output_rows, positions, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = embeddings(g)
    pos, kv, rows = positions(g), bare_input(g), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        q, k = norm(g, q, "attn_q_norm", il), norm(g, k, "attn_k_norm", il)
        h = attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il, bias=False)
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        h = norm(g, x, "ffn_norm", il)
        h = moe(g, h, il, norm=False)
        x = g.end_layer(g.add(h, x))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(logits(g, x, bias=False), "result_output"))
