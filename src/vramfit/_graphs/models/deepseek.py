"""DeepSeek MoE: plain attention, experts beside shared ones behind the first layers. Source: models/deepseek.cpp."""

from __future__ import annotations

from ..._ggml.ops import Unbuildable
from ..attention import attend, kv_input
from ..context import GraphContext
from ..experts import shared
from ..feed_forward import ffn, moe
from ..parts import embeddings, logits, n_rot, norm, output_rows, positions, qkv, rope_factors, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    if not g.head_v() == g.head_k() == n_rot(g):
        raise Unbuildable(f"heads of {g.head_k()} and {g.head_v()} elements, of which {n_rot(g)} are rotated")
    x = embeddings(g, scale=False)
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        h = norm(g, x, "attn_norm", il)
        factors = rope_factors(g, il)
        q, k, v = qkv(g, h, il)
        h = attend(g, kv, g.rope(q, pos, factors), g.rope(k, pos, factors), v, il)
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        h = norm(g, x, "ffn_norm", il)
        if g.has("ffn_gate_inp.weight", il):
            experts = moe(g, h, il, norm=False, scale=g.hp("expert_weights_scale"))
            h = g.add(experts, shared(g, h, il))
        else:
            h = ffn(g, h, il, biases=False)
        x = g.end_layer(g.add(h, x))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(logits(g, x, bias=False), "result_output"))
