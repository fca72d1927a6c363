"""Granite 4: Mamba 2 layers, attention in some. Source: models/granite-hybrid.cpp."""

from __future__ import annotations

from ..._llama.model import Model
from ..attention import kv_input
from ..context import GraphContext
from ..granite import attention, feed_forward, finish
from ..parts import check_heads, embeddings, norm, output_rows, positions, select
from ..recurrent import before_recurrent, mamba2, rs_input


def traits(model: Model, il: int) -> int:
    """Whether a layer's nodes mingle with those of the next one."""
    return before_recurrent(model, il)


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    x = embeddings(g, scale=True)
    rotates = bool(g.hp("rope.scaling.finetuned", 1))
    rs, kv, pos, rows = rs_input(g), kv_input(g), positions(g), output_rows(g)
    for il in g.layers:
        h = norm(g, x, "attn_norm", il)
        h = mamba2(g, rs, h, il) if g.is_recurrent(il) else attention(g, kv, h, pos, il, rotates=rotates)
        h, x = select(g, rows, il, h, x)
        x = feed_forward(g, h, x, il)
    finish(g, x, scales=g.hp("logit_scale") != 0)
