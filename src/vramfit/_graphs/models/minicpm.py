"""MiniCPM: scaled embeddings, scaled parts, scaled logits. Source: models/minicpm.cpp, models/granite.cpp."""

from __future__ import annotations

from ..._ggml.graph import Tensor
from ..attention import attend, kv_input
from ..context import GraphContext
from ..feed_forward import ffn, moe
from ..parts import check_heads, embeddings, logits, norm, output_rows, positions, qkv, rope_factors, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = embeddings(g)
    if g.hp("embedding_scale", 1):
        x = g.expand(g.scale(x))
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        factors = rope_factors(g, il)
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il, n_head=g.n_head(il), n_head_kv=g.n_head_kv(il))
        h = attend(g, kv, g.rope(q, pos, factors), g.rope(k, pos, factors), v, il)
        h, x = select(g, rows, il, h, x)
        x = g.add(_part(g, h), x)
        h = norm(g, x, "ffn_norm", il)
        h = moe(g, h, il) if g.has("ffn_gate_inp.weight", il) else ffn(g, h, il)
        x = g.end_layer(g.add(_part(g, h), x))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(g.scale(logits(g, x, bias=False)), "result_output"))


def _part(g: GraphContext, x: Tensor) -> Tensor:
    """What a part adds to the residual; an own factor applies unless the header says 0."""
    return g.scale(x) if g.hp("residual_scale", 1) else x
