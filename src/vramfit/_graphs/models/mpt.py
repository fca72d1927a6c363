"""MPT: biased scores in place of positions, where its header says so, or learned ones. Source: models/mpt.cpp."""

from __future__ import annotations

from ..._ggml.graph import Tensor
from ..attention import attend, kv_input
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, logits, norm, output_rows, positions, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    x = embeddings(g)
    kv, rows = kv_input(g, alibi=g.hp("attention.max_alibi_bias") > 0), output_rows(g)
    if g.has("position_embd.weight"):
        x = g.add(x, g.get_rows(g.need("position_embd.weight"), positions(g)))
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il, "norm"), il, clamp=True)
        if g.has("attn_q_norm.weight", il):
            q, k = _whole_norm(g, q, "attn_q_norm", il), _whole_norm(g, k, "attn_k_norm", il)
        h = attend(g, kv, q, k, v, il)
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        h = ffn(g, norm(g, x, "ffn_norm", il, "norm"), il, act="gelu", gate=None, act_scale="ffn.act")
        x = g.end_layer(g.add(h, x))
    x = g.output(norm(g, x, "output_norm", kind="norm"), "result_norm")
    g.expand(g.output(logits(g, x, bias=False), "result_output"))


def _whole_norm(g: GraphContext, x: Tensor, name: str, il: int) -> Tensor:
    """A norm over all heads together."""
    flat = g.reshape(x, x.ne[0] * x.ne[1], x.ne[2])
    return g.reshape(norm(g, flat, name, il, "norm"), *x.ne[:3])
