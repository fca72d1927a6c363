"""StableLM: norms by head, and parts side by side where a layer has one norm. Source: models/stablelm.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..decoder import finish, norm_if
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, norm, output_rows, positions, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    x = embeddings(g)
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        n = norm(g, x, "attn_norm", il, "norm")
        q, k, v = qkv(g, n, il)
        q, k = norm_if(g, q, "attn_q_norm", il, "norm"), norm_if(g, k, "attn_k_norm", il, "norm")
        h = attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il, bias=False)
        h, x, n = select(g, rows, il, h, x, n)
        x = g.add(h, x)
        h = norm(g, x, "ffn_norm", il, "norm") if g.has("ffn_norm.weight", il) else n
        x = g.end_layer(g.add(ffn(g, h, il, biases=False), x))
    finish(g, x, "norm")
