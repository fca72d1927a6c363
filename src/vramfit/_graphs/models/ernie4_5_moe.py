"""ERNIE 4.5 with experts in layers at equal distances. Source: models/ernie4-5-moe.cpp."""

from __future__ import annotations

from ..._ggml.ops import Unbuildable
from ..._llama.model import Model
from ..attention import attend, kv_input
from ..context import GraphContext
from ..decoder import finish
from ..experts import shared
from ..feed_forward import ffn, moe
from ..parts import check_heads, embeddings, norm, output_rows, positions, qkv, select


def traits(model: Model, il: int) -> bool:
    """Whether the layer asks experts."""
    step, dense = (
        model.hparams.get(x, 0) for x in ("interleave_moe_layer_step", "leading_dense_block_count")
    )
    return (
        isinstance(step, int) and isinstance(dense, int) and step > 0 and il >= dense and (il + 1) % step == 0
    )


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    if g.n("interleave_moe_layer_step") <= 0:
        raise Unbuildable("interleave_moe_layer_step is not above 0")
    x = embeddings(g)
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        h = attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il, bias=False)
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        h = norm(g, x, "ffn_norm", il)
        if not traits(g.model, il):
            h = ffn(g, h, il, biases=False)
        elif g.has("ffn_up_shexp.weight", il):
            h = g.add(moe(g, h, il, bias="exp_probs_b.bias"), shared(g, h, il))
        else:
            h = moe(g, h, il, bias="exp_probs_b.bias")
        x = g.end_layer(g.add(h, x))
    finish(g, x)
