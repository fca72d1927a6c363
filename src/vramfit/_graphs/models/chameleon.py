"""Chameleon: norms before each part, or behind it; the logits of image tokens are put out of reach. Source: models/chameleon.cpp."""

from __future__ import annotations

from ..._ggml.ops import F32
from ..attention import attend, kv_input
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, logits, norm, output_rows, positions, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = embeddings(g)
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    behind = bool(g.hp("swin_norm"))
    for il in g.layers:
        q, k, v = qkv(g, x if behind else norm(g, x, "attn_norm", il), il)
        if g.has("attn_q_norm.weight", il):
            q = norm(g, q, "attn_q_norm", il, "norm")
        if g.has("attn_k_norm.weight", il):
            k = norm(g, k, "attn_k_norm", il, "norm")
        h = attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il, bias=False)
        h, x = select(g, rows, il, h, x)
        x = g.add(norm(g, h, "attn_norm", il) if behind else h, x)
        h = ffn(g, x if behind else norm(g, x, "ffn_norm", il), il, biases=False)
        x = g.end_layer(g.add(norm(g, h, "ffn_norm", il) if behind else h, x))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    images = g.clamp(g.tensor(F32, 8196 - 4))
    g.expand(g.output(g.set(logits(g, x, bias=False), images), "result_output"))
