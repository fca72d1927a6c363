"""Spark 2.5: attention gated by head, windows. Source: models/spark2-5.cpp."""

from __future__ import annotations

from ..attention import attend, windowed_input
from ..context import GraphContext
from ..decoder import finish, head_gate
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, linear, norm, output_rows, positions, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    x = embeddings(g)
    pos, kv, rows = positions(g), windowed_input(g), output_rows(g)
    for il in g.layers:
        n = norm(g, x, "attn_norm", il)
        q, k, v = qkv(g, n, il, n_head=g.n_head(il), n_head_kv=g.n_head_kv(il))
        h = attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il, out=None)
        gate = g.sigmoid(g.mul_mat(g.need("attn_gate.weight", il), n))
        h = linear(g, head_gate(g, h, gate, g.head_v()), "attn_output", il, bias=False)
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        h = ffn(g, norm(g, x, "ffn_norm", il), il, act="gelu", biases=False)
        x = g.end_layer(g.add(h, x))
    finish(g, x, scale=False)
