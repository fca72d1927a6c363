"""Laguna: gated attention by head or by element, experts beside a shared one. Source: models/laguna.cpp."""

from __future__ import annotations

from ..attention import attend
from ..context import GraphContext
from ..decoder import any_input, finish, head_gate, normed_rope
from ..experts import beside_shared
from ..parts import check_heads, embeddings, linear, norm, output_rows, positions, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    x = embeddings(g)
    pos, kv, rows = positions(g), any_input(g), output_rows(g)
    for il in g.layers:
        n = norm(g, x, "attn_norm", il)
        q, k, v = qkv(g, n, il, n_head=g.n_head(il), n_head_kv=g.n_head_kv(il))
        q, k = normed_rope(g, q, k, pos, il)
        h = attend(g, kv, q, k, v, il, out=None)
        gate = g.softplus(g.mul_mat(g.need("attn_gate.weight", il), n))
        h = head_gate(g, h, gate, g.head_v()) if gate.ne[0] == g.n_head(il) else g.mul(h, gate)
        h, x = select(g, rows, il, linear(g, h, "attn_output", il, bias=False), x)
        x = g.add(h, x)
        h = beside_shared(g, norm(g, x, "ffn_norm", il), il, "sigmoid")
        x = g.end_layer(g.add(h, x))
    finish(g, x, scale=False)
