"""Hunyuan 3: experts beside a shared one; all rows reach the last norm. Source: models/hy-v3.cpp."""

from __future__ import annotations

from ..._ggml.graph import Tensor
from ..attention import Kv, attend, kv_input
from ..context import GraphContext
from ..decoder import normed_rope
from ..experts import gating, routed, shared
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, logits, norm, output_rows, positions, qkv, rope_factors


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = embeddings(g)
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        x = g.end_layer(layer(g, kv, x, pos, il))
    x = g.output(norm(g, x, "output_norm"), "h_nextn")
    x = g.output(g.get_rows(x, rows), "result_norm")
    g.expand(g.output(logits(g, x, bias=False), "result_output"))


def layer(g: GraphContext, kv: Kv, x: Tensor, pos: Tensor, il: int) -> Tensor:
    """One layer, up to where it ends."""
    q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
    q, k = normed_rope(g, q, k, pos, il, rope_factors(g, il))
    x = g.add(attend(g, kv, q, k, v, il), x)
    h = norm(g, x, "ffn_norm", il)
    if not g.has("ffn_gate_inp.weight", il):
        return g.add(ffn(g, h, il, scales=True), x)
    how = gating(g, "sigmoid")
    some = routed(g, h, il, how, bias="exp_probs_b", gate_up="ffn_gate_up_exps", scales=True)
    return g.add(g.add(some, shared(g, h, il, scales=True)), x)
