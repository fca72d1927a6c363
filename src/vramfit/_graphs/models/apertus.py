"""Apertus: xIELU without a gate. Source: models/apertus.cpp."""

from __future__ import annotations

from ..._ggml.graph import Tensor
from ..attention import attend, kv_input
from ..context import GraphContext
from ..decoder import finish
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, norm, output_rows, positions, qkv, rope_factors, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = embeddings(g)
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        factors = rope_factors(g, il)
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        q, k = _norm(g, q, "attn_q_norm", il), _norm(g, k, "attn_k_norm", il)
        h = attend(g, kv, g.rope(q, pos, factors), g.rope(k, pos, factors), v, il)
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        h = ffn(g, norm(g, x, "ffn_norm", il), il, act="xielu", gate=None, biases=False)
        x = g.end_layer(g.add(h, x))
    finish(g, x)


def _norm(g: GraphContext, x: Tensor, name: str, il: int) -> Tensor:
    """A norm of queries or keys, whose bias is loaded and never added."""
    return g.mul(g.named(g.pin(g.rms_norm(x), il), "norm"), g.need(f"{name}.weight", il))
