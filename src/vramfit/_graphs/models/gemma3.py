"""Gemma 3: windows in most layers, norms before and behind each part. Source: models/gemma3.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input, windowed_input
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import embeddings, logits, norm, output_rows, positions, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = g.scale(embeddings(g))
    has_window = any(g.is_swa(il) for il in g.known.trunk)
    pos, kv, rows = positions(g), windowed_input(g) if has_window else kv_input(g), output_rows(g)
    for il in g.layers:
        h = norm(g, x, "attn_norm", il)
        q, k, v = qkv(g, h, il, head=g.head_k())
        q = g.scale(g.rope(norm(g, q, "attn_q_norm", il), pos))
        k = g.rope(norm(g, k, "attn_k_norm", il), pos)
        h = attend(g, kv, q, k, v, il, bias=False)
        h, x = select(g, rows, il, h, x)
        x = g.add(norm(g, h, "post_attention_norm", il), x)
        h = ffn(g, norm(g, x, "ffn_norm", il), il, act="gelu", biases=False)
        x = g.end_layer(g.add(norm(g, h, "post_ffw_norm", il, pinned=False), x))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    x = logits(g, x, bias=False)
    if g.hp("final_logit_softcapping"):
        x = g.scale(g.tanh(g.scale(x)))
    g.expand(g.output(x, "result_output"))
