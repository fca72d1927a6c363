"""SmallThinker: experts are chosen by the layer's input; some layers rotate nothing. Source: models/smallthinker.cpp."""

from __future__ import annotations

from ..._llama.model import Model
from ..attention import attend
from ..context import GraphContext
from ..decoder import any_input, finish
from ..experts import gating
from ..feed_forward import moe
from ..parts import check_heads, embeddings, norm, output_rows, positions, qkv, select


def traits(model: Model, il: int) -> bool:
    """Whether the layer rotates: with windows three of four, or as many as there are in a model of four layers."""
    n_layer = sum(not x.is_nextn for x in model.layers)
    return n_layer == 4 or il % 4 != 0 or not any(x.is_swa for x in model.layers)


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = embeddings(g)
    pos, kv, rows = positions(g), any_input(g), output_rows(g)
    for il in g.layers:
        scores = g.mul_mat(g.need("ffn_gate_inp.weight", il), x)
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        if traits(g.model, il):
            q, k = g.rope(q, pos), g.rope(k, pos)
        h, x, scores = select(g, rows, il, attend(g, kv, q, k, v, il), x, scores)
        x = g.add(h, x)
        h = norm(g, x, "ffn_norm", il)
        h = moe(g, h, il, gating=gating(g), act="relu", logits_in=scores)
        x = g.end_layer(g.add(h, x))
    finish(g, x)
