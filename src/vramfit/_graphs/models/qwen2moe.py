"""Qwen 2 with experts, and a shared one whose share each token weighs. Source: models/qwen2moe.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..decoder import finish
from ..experts import shared
from ..feed_forward import moe
from ..parts import check_heads, embeddings, norm, output_rows, positions, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = embeddings(g)
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        h = attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il)
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        h = norm(g, x, "ffn_norm", il)
        share = g.mul_mat(g.need("ffn_gate_inp_shexp.weight", il), h)
        share = g.div(g.silu(share), share)  # a sigmoid
        h = g.add(moe(g, h, il, norm=False), g.mul(shared(g, h, il), share))
        x = g.end_layer(g.add(h, x))
    finish(g, x)
