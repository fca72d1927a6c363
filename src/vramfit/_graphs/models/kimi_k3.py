"""Kimi K3: delta attention and gated latent attention, which read a mix of what earlier blocks of layers began with.

Every few layers the stream of residuals is put aside and begins anew. Source: models/kimi-k3.cpp.
"""

from __future__ import annotations

from math import inf

from ..._ggml.graph import Tensor
from ..._llama.model import Model
from ..attention import Kv, attend, k_input
from ..context import GraphContext
from ..experts import gating
from ..feed_forward import moe, situ
from ..kda import by_sequence, by_sigmoid, by_softplus, kda
from ..latent import Sizes, absorbed, compressed, queries, sizes, split
from ..parts import embeddings, logits, norm, output_rows, product
from ..recurrent import Rs, rs_input

BLOCK = "attn_res.block_size"


def traits(model: Model, il: int) -> object:
    """How many streams were put aside before a layer, and whether it puts one aside."""
    size = model.hparams.get(BLOCK)
    return (-(-il // size), il % size == 0) if isinstance(size, int) and size > 0 else None


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = embeddings(g, scale=False)
    s, size = sizes(g), g.n(BLOCK)
    kv, rs, rows = k_input(g), rs_input(g), output_rows(g)
    aside: Tensor | None = None
    for il in g.layers:
        h = _mixed(g, x, aside, "attn_res_score.weight", il)
        begins = size > 0 and il % size == 0
        if begins:
            more = g.reshape(x, g.n_embd, 1, g.n_tokens)
            aside = more if aside is None else g.concat(aside, more, 1)
        h = g.expand(norm(g, h, "attn_norm", il))
        h = _delta(g, rs, h, il) if g.is_recurrent(il) else _latent(g, kv, h, il, s)
        x = h if begins else g.add(x, h)
        h = norm(g, _mixed(g, x, aside, "ffn_res_score.weight", il), "ffn_norm", il)
        h = _experts(g, h, il) if g.has("ffn_gate_inp.weight", il) else _network(g, h, il, "ffn_{}")
        x = g.end_layer(g.add(x, h))
    x = g.get_rows(_mixed(g, x, aside, "output_res_score.weight"), rows)
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(logits(g, x, bias=False, scale=False), "result_output"))


def _mixed(g: GraphContext, x: Tensor, aside: Tensor | None, name: str, il: int | None = None) -> Tensor:
    """The stream and those put aside, weighed by scores of each (res_mix)."""
    if aside is None:
        return x
    score, n = g.need(name, il), aside.ne[1]
    old = g.reshape(g.sum_rows(g.mul(g.rms_norm(aside), score)), n, g.n_tokens)
    new = g.sum_rows(g.mul(g.rms_norm(x), score))
    shares = g.soft_max(g.concat(old, new, 0))
    row = shares.nb[1:2]
    share_old = g.cont(g.view(shares, (n, g.n_tokens), row))
    share_new = g.cont(g.view(shares, (1, g.n_tokens), row, n * shares.nb[0]))
    mix = g.of("DSV4_HC_PRE", (g.n_embd, g.n_tokens), aside, share_old)
    return g.add(mix, g.mul(x, share_new))


def _delta(g: GraphContext, rs: Rs, h: Tensor, il: int) -> Tensor:
    decay = product(g, h, "ssm_f_a", "ssm_f_b", il=il)
    bounded = g.hp("kda.gate_lower_bound", -inf) > -inf
    decay = by_sigmoid(g, decay, il, turned=True) if bounded else by_softplus(g, decay, il)
    return kda(g, rs, h, il, decay=decay, gate=product(g, by_sequence(g, h), "ssm_g", il=il))


def _latent(g: GraphContext, kv: Kv, h: Tensor, il: int, s: Sizes) -> Tensor:
    nope, pe = split(g, queries(g, h, il), s, g.n_head())
    q, k, v = absorbed(g, nope, pe, *compressed(g, h, il, s), il)
    x = attend(g, kv, q, k, v, il, out=None, v_mla=g.need("attn_v_b.weight", il))
    if g.has("attn_gate.weight", il):
        x = g.mul(x, g.sigmoid(product(g, h, "attn_gate", il=il)))
    return product(g, x, "attn_output", il=il)


def _network(g: GraphContext, h: Tensor, il: int, names: str) -> Tensor:
    """A dense network, or the expert that every token goes through."""
    gate, up = (product(g, h, names.format(which), il=il) for which in ("gate", "up"))
    return product(g, situ(g, gate, up), names.format("down"), il=il)


def _experts(g: GraphContext, h: Tensor, il: int) -> Tensor:
    """Experts that work on shorter rows, chosen by the whole ones."""
    rows = product(g, h, "ffn_routed_down", il=il) if g.has("ffn_routed_down.weight", il) else h
    x = moe(
        g, rows, il,
        gating=gating(g),
        norm=bool(g.hp("expert_weights_norm")),
        scale=g.hp("expert_weights_scale"),
        act="situ",
        bias="exp_probs_b.bias",
        logits_in=product(g, h, "ffn_gate_inp", il=il),
    )  # fmt: skip
    if g.has("ffn_routed_norm.weight", il):
        x = norm(g, x, "ffn_routed_norm", il)
    if g.has("ffn_routed_up.weight", il):
        x = product(g, x, "ffn_routed_up", il=il)
    return g.add(x, _network(g, h, il, "ffn_{}_shexp")) if g.has("ffn_gate_shexp.weight", il) else x
