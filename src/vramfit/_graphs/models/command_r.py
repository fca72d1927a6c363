"""Command R: attention and feed-forward network side by side. Source: models/command-r.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..decoder import norm_if
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, logits, norm, output_rows, positions, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    x = embeddings(g)
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        n = norm(g, x, "attn_norm", il, "norm")
        q, k, v = qkv(g, n, il)
        q, k = norm_if(g, q, "attn_q_norm", il, "norm"), norm_if(g, k, "attn_k_norm", il, "norm")
        h = attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il)
        h, x, n = select(g, rows, il, h, x, n)
        x = g.end_layer(g.add(g.add(ffn(g, n, il, biases=False), x), h))
    x = g.output(norm(g, x, "output_norm", kind="norm"), "result_norm")
    x = logits(g, x, bias=False)
    g.expand(g.output(g.scale(x) if g.hp("logit_scale") else x, "result_output"))
