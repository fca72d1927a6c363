"""Ling 3: delta attention, and gated latent attention in some layers. Source: models/bailingmoe3.cpp."""

from __future__ import annotations

from ..._ggml.graph import Tensor
from ..._llama.model import Model
from ..attention import Kv, attend, k_input
from ..context import GraphContext
from ..decoder import has_sections
from ..experts import gating, routed, shared
from ..feed_forward import NO_LIMIT, ffn
from ..kda import by_sigmoid, kda
from ..latent import Sizes, absorbed, compressed, queries, sizes, split
from ..parts import embeddings, logits, norm, output_rows, positions, product
from ..recurrent import before_recurrent, rs_input


def traits(model: Model, il: int) -> object:
    """Whether the next layer reads its state before this one has ended, and is the first to do so."""
    return before_recurrent(model, il)


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = embeddings(g, scale=False)
    s = sizes(g)
    kv, rs = k_input(g), rs_input(g)
    pos, rows = token_positions(g), output_rows(g)
    for il in g.layers:
        h = norm(g, x, "attn_norm", il)
        if g.is_recurrent(il):
            decay = by_sigmoid(g, product(g, h, "ssm_f_a", il=il), il, turned=False)
            h = kda(g, rs, h, il, decay=decay, gate=product(g, h, "ssm_g_a", il=il), whole=False)
        else:
            h = latent(g, kv, h, pos, il, s)
        x = g.add(h, x)
        x = g.end_layer(g.add(feed_forward(g, norm(g, x, "ffn_norm", il), il), x))
    x = g.get_rows(g.output(norm(g, x, "output_norm"), "h_nextn"), rows)
    x = g.output(x, "result_norm")
    g.expand(g.output(logits(g, x, bias=False, scale=False), "result_output"))


def token_positions(g: GraphContext) -> Tensor:
    """The positions of tokens, which have several parts where the header says so (use_mrope)."""
    return positions(g, 4 if has_sections(g) else 1)


def latent(g: GraphContext, kv: Kv, h: Tensor, pos: Tensor, il: int, s: Sizes) -> Tensor:
    """Latent attention, weighed by head."""
    n_head, n = g.n_head(), g.n_tokens
    nope, pe = split(g, queries(g, h, il), s, n_head)
    latent, k_pe = compressed(g, h, il, s)
    q, k, v = absorbed(g, nope, g.rope(pe, pos), latent, g.rope(k_pe, pos), il)
    x = attend(g, kv, q, k, v, il, out=None, v_mla=g.need("attn_v_b.weight", il))
    gate = g.sigmoid(g.reshape(product(g, h, "attn_gate", il=il), 1, n_head, n))
    x = g.mul(g.reshape(x, s.head_v, n_head, n), gate)
    return product(g, g.cont(x, s.head_v * n_head, n), "attn_output", il=il)


def feed_forward(g: GraphContext, h: Tensor, il: int) -> Tensor:
    """A dense network, or experts beside a shared one; each kind has a limit of its own in some layers."""
    limits = (
        "steps" if g.hp(f"swiglu_clamp_{which}", il=il) > NO_LIMIT else "" for which in ("exp", "shexp")
    )
    exp, shexp = limits
    if not g.has("ffn_gate_inp.weight", il):
        return ffn(g, h, il, biases=False, clamp=shexp)
    return g.add(routed(g, h, il, gating(g), clamp=exp), shared(g, h, il, clamp=shexp))
