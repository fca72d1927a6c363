"""Nemotron-H: each layer is Mamba 2, or attention, or a feed-forward network, dense or a mixture.

Source: models/nemotron-h.cpp, models/nemotron-h-moe.cpp.
"""

from __future__ import annotations

from ..._ggml.graph import Tensor
from ..._llama.model import Model
from ..attention import attend, kv_input
from ..context import GraphContext
from ..feed_forward import ffn, moe
from ..parts import check_heads, embeddings, linear, logits, norm, output_rows, qkv
from ..recurrent import before_recurrent, mamba2, rs_input


def traits(model: Model, il: int) -> int:
    """Whether a layer's nodes mingle with those of the next one, or of the next behind dense networks."""
    while il + 1 < len(model.layers) and model.layers[il + 1].n_ff and not model.n_expert:
        il += 1
    return before_recurrent(model, il)


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    x = embeddings(g)
    rs, kv, rows = rs_input(g), kv_input(g), output_rows(g)
    for il in g.layers:
        h = norm(g, x, "attn_norm", il)
        if g.is_recurrent(il):
            h = mamba2(g, rs, h, il)
        elif g.layer(il).n_ff == 0:
            q, k, v = qkv(g, h, il, n_head=g.n_head(il), n_head_kv=g.n_head_kv(il))
            h = attend(g, kv, q, k, v, il)
        elif g.has("ffn_gate_inp.weight", il):
            h = g.steered(experts(g, h, il))
        else:
            h = g.steered(ffn(g, h, il, act="relu_sqr", gate=None, scales=True))
        x = g.end_layer(g.add(h, x), steers=False)
    x = g.output(norm(g, x, "output_norm"), "h_nextn")
    x = g.output(g.get_rows(x, rows), "result_norm")
    g.expand(g.output(logits(g, x, bias=False), "result_output"))


def experts(g: GraphContext, x: Tensor, il: int) -> Tensor:
    """A mixture, in some models of a narrower input, and an expert that all tokens go through."""
    narrow, wide = g.w("ffn_latent_down.weight", il), g.w("ffn_latent_up.weight", il)
    h = x if narrow is None else g.mul_mat(narrow, x)
    y = moe(
        g,
        h,
        il,
        gating="sigmoid",
        norm=bool(g.hp("expert_weights_norm")),
        scale=g.hp("expert_weights_scale"),
        act="relu_sqr",
        bias="exp_probs_b.bias",
        gate=None,
        scales=True,
        n_used=g.n_expert_used(il),
        logits_in=linear(g, x, "ffn_gate_inp", il, scale=False, bias=False),
    )
    y = y if wide is None else g.mul_mat(wide, y)
    shared = ffn(
        g,
        x,
        il,
        act="relu_sqr",
        up="ffn_up_shexp",
        gate=None,
        down="ffn_down_shexp",
        biases=False,
        scales=True,
    )
    return g.add(y, shared)
