"""Kimi Linear: delta attention, and latent attention without positions in some layers. Source: models/kimi-linear.cpp."""

from __future__ import annotations

from collections.abc import Sequence

from ..._ggml.graph import Tensor
from ..attention import attend, k_input
from ..context import GraphContext
from ..experts import gating, shared
from ..feed_forward import ffn, moe
from ..kda import by_sequence, by_softplus, kda
from ..latent import absorbed, compressed, sizes, split
from ..parts import embeddings, logits, norm, output_rows, product, select
from ..recurrent import Rs, rs_input

ONE_SEQUENCE = True


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = embeddings(g, scale=False)
    s = sizes(g)
    kv, rs, rows = k_input(g), rs_input(g), output_rows(g)
    for il in g.layers:
        h = g.expand(norm(g, x, "attn_norm", il))
        if g.is_recurrent(il):
            h = _delta(g, rs, h, il)
        else:
            nope, pe = split(g, product(g, h, "attn_q", il=il), s, g.n_head())
            q, k, v = absorbed(g, nope, pe, *compressed(g, h, il, s), il)
            h = attend(g, kv, q, k, v, il, bias=False, v_mla=g.need("attn_v_b.weight", il))
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        x = g.end_layer(g.add(_feed_forward(g, norm(g, x, "ffn_norm", il), il), x))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(logits(g, x, bias=False, scale=False), "result_output"))


def _delta(g: GraphContext, rs: Rs, h: Tensor, il: int) -> Tensor:
    decay = by_softplus(g, product(g, h, "ssm_f_a", "ssm_f_b", il=il), il)
    gate = product(g, by_sequence(g, h), "ssm_g_a", "ssm_g_b", il=il)
    return kda(g, rs, h, il, decay=decay, gate=gate, inputs=_one_matrix(g, h, il), as_row=True)


def _one_matrix(g: GraphContext, h: Tensor, il: int) -> Sequence[Tensor]:
    """Queries, keys and values out of one matrix, if the layer has it."""
    if not g.has("attn_qkv.weight", il):
        return ()
    t, inner = product(g, h, "attn_qkv", il=il), g.n("kda.head_dim") * g.n_head()
    return [g.cont(g.view(t, (inner, g.n_tokens), (t.nb[1],), i * inner * t.nb[0])) for i in range(3)]


def _feed_forward(g: GraphContext, h: Tensor, il: int) -> Tensor:
    if not g.has("ffn_gate_inp.weight", il):
        return ffn(g, h, il, biases=False)
    scale, bias = g.hp("expert_weights_scale"), "exp_probs_b.bias"
    return g.add(moe(g, h, il, gating=gating(g), scale=scale, bias=bias), shared(g, h, il))
