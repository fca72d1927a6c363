"""Hunyuan 4: hyper connections around gated latent attention, over the cells that an indexer chooses if there is one.

Source: models/hy-v4.cpp.
"""

from __future__ import annotations

from ..._ggml.graph import Tensor
from ..._ggml.ops import F32, Unbuildable
from ..attention import Kv, attend, k_input
from ..context import GraphContext
from ..experts import gating, routed, shared
from ..feed_forward import NO_LIMIT, ffn
from ..hyper import chosen_rows, gate, joined, mixes, n_streams, row, spread, stream, weighed
from ..indexer import Indexed, attend_best, best_cells, indexed_input
from ..latent import Sizes, absorbed, compressed, low_rank, sizes, split
from ..parts import embeddings, norm, output_matrix, output_rows, positions, product


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = embeddings(g, scale=False)
    s = sizes(g)
    index = indexed_input(g) if g.n("attention.indexer.top_k") > 0 else None
    pos, kv, rows = positions(g), k_input(g) if index is None else index.kv, output_rows(g)
    x, best = spread(g, x), None
    for il in g.layers:
        h, post = _read(g, x, "hc_attn", il)
        h = norm(g, h, "attn_norm", il)
        short = low_rank(g, h, il)
        if index is not None and any(c.kind == "indexer" for c in g.layer(il).caches):
            best = best_cells(g, index, h, short, pos, il, rotated=False)
        x = _write(g, _attention(g, kv, index, best, h, short, pos, il, s), x, post)
        h, post = _read(g, x, "hc_ffn", il)
        h = _feed_forward(g, norm(g, h, "ffn_norm", il), il)
        x = g.end_layer(_write(g, h, x, post))
    x = _head(g, chosen_rows(g, x, rows))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(g.mul_mat(output_matrix(g), x), "result_output"))


def _read(g: GraphContext, x: Tensor, name: str, il: int) -> tuple[Tensor, Tensor]:
    """What a part of a layer reads of the streams, and how much each stream takes of its result."""
    n, t = n_streams(g), mixes(g, x, name, il)
    pre = g.scale(g.sigmoid(gate(g, t, name, il, 0, n)))
    post = g.scale(g.scale(g.sigmoid(gate(g, t, name, il, 1, n))))
    return _sum(g, x, pre), post


def _sum(g: GraphContext, x: Tensor, weights: Tensor) -> Tensor:
    return g.cast(weighed(g, g.cast(x, F32), weights), x.type)


def _write(g: GraphContext, h: Tensor, x: Tensor, post: Tensor) -> Tensor:
    """The streams with what a part of a layer made."""
    h, post, old = g.cast(h, F32), g.cast(post, F32), g.cast(x, F32)
    new = [g.add(stream(g, old, i), g.mul(h, row(g, post, i))) for i in range(n_streams(g))]
    return g.cast(joined(g, new), x.type)


def _head(g: GraphContext, x: Tensor) -> Tensor:
    """One stream out of all."""
    t = g.mul(mixes(g, x, "output_hc"), g.need("output_hc_scale.weight"))
    return _sum(g, x, g.scale(g.sigmoid(g.add(t, g.need("output_hc_base.weight")))))


def _attention(
    g: GraphContext, kv: Kv, index: Indexed | None, best: Tensor | None,
    h: Tensor, short: Tensor, pos: Tensor, il: int, s: Sizes,
) -> Tensor:  # fmt: skip
    nope, pe = split(g, product(g, short, "attn_q_b", il=il), s, g.n_head())
    latent, k_pe = compressed(g, h, il, s)
    q, k, v = absorbed(g, nope, g.rope(pe, pos), latent, g.rope(k_pe, pos), il)
    sinks, v_mla = g.need("attn_sinks.weight", il), g.need("attn_v_b.weight", il)
    if index is None:
        x = attend(g, kv, q, k, v, il, out=None, sinks=sinks, v_mla=v_mla)
    elif best is None:
        raise Unbuildable("the first layer has no indexer")
    else:
        x = attend_best(g, kv, q, k, v, best, il, out=None, sinks=sinks, v_mla=v_mla)
    x = g.mul(x, g.sigmoid(product(g, h, "attn_gate", il=il)))
    return product(g, x, "attn_output", il=il)


def _feed_forward(g: GraphContext, h: Tensor, il: int) -> Tensor:
    if not g.has("ffn_gate_inp.weight", il):
        return ffn(g, h, il, biases=False)
    clamp = "op" if g.hp("swiglu_clamp_exp", il=il) > NO_LIMIT else ""
    return g.add(routed(g, h, il, gating(g), clamp=clamp), shared(g, h, il))
