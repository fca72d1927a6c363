"""Jamba: Mamba, attention without positions in some layers, a mixture in some. Source: models/jamba.cpp."""

from __future__ import annotations

from ..._llama.model import Model
from ..attention import attend, kv_input
from ..context import GraphContext
from ..feed_forward import ffn, moe
from ..parts import embeddings, logits, norm, output_rows, qkv, select
from ..recurrent import before_recurrent, mamba, rs_input


def traits(model: Model, il: int) -> int:
    """Whether a layer's nodes mingle with those of the next one."""
    return before_recurrent(model, il)


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = embeddings(g)
    rs, kv, rows = rs_input(g), kv_input(g), output_rows(g)
    for il in g.layers:
        h = norm(g, x, "attn_norm", il)
        if g.n_head_kv(il) == 0:
            h = mamba(g, rs, h, il)
        else:
            q, k, v = qkv(g, h, il, n_head_kv=g.n_head_kv(il))
            h = attend(g, kv, q, k, v, il, bias=False)
        h, x = select(g, rows, il, h, x)
        x = g.add(x, h)
        h = norm(g, x, "ffn_norm", il)
        h = moe(g, h, il, norm=False) if g.has("ffn_gate_inp.weight", il) else ffn(g, h, il, biases=False)
        x = g.end_layer(g.add(x, h))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(logits(g, x, bias=False), "result_output"))
