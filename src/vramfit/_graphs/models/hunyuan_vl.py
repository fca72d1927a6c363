"""Hunyuan, with or without vision: rotated queries and keys are normed. Source: models/hunyuan-vl.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..decoder import finish, has_sections
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, norm, output_rows, positions, qkv, rope_factors, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    sections = g.model.architecture == "hunyuan_vl" and has_sections(g)
    x = embeddings(g)
    pos, kv, rows = positions(g, 4 if sections else 1), kv_input(g), output_rows(g)
    for il in g.layers:
        factors = rope_factors(g, il)
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        q = norm(g, g.rope(q, pos, factors), "attn_q_norm", il)
        k = norm(g, g.rope(k, pos, factors), "attn_k_norm", il)
        h, x = select(g, rows, il, attend(g, kv, q, k, v, il), x)
        x = g.add(h, x)
        x = g.end_layer(g.add(ffn(g, norm(g, x, "ffn_norm", il), il, biases=False), x))
    finish(g, x)
