"""Muse Glimmer: gated attention, norms before and behind each part. Source: models/muse-glimmer.cpp."""

from __future__ import annotations

from ..attention import attend, windowed_input
from ..context import GraphContext
from ..decoder import soft_capped
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, linear, logits, norm, output_rows, positions, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    x = g.rms_norm(embeddings(g))
    pos, kv, rows = positions(g), windowed_input(g), output_rows(g)
    for il in g.layers:
        n = norm(g, x, "attn_norm", il)
        q, k, v = qkv(g, n, il)
        q, k = norm(g, q, "attn_q_norm", il), norm(g, k, "attn_k_norm", il)
        if g.is_swa(il):
            q, k = g.rope(q, pos), g.rope(k, pos)
        h = attend(g, kv, q, k, v, il, out=None)
        h = g.mul(h, g.sigmoid(g.mul_mat(g.need("attn_gate.weight", il), n)))
        h = linear(g, h, "attn_output", il, bias=False)
        h, x = select(g, rows, il, norm(g, h, "post_attention_norm", il, pinned=False), x)
        x = g.add(h, x)
        h = ffn(g, norm(g, x, "ffn_norm", il), il, biases=False)
        x = g.end_layer(g.add(norm(g, h, "post_ffw_norm", il, pinned=False), x))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    x = soft_capped(g, g.scale(logits(g, x, bias=False)))
    g.expand(g.output(x, "result_output"))
