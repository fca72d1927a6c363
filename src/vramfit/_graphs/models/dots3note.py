"""dots3-note: gated latent attention of two geometries, over the best cells or over a window. Source: models/dots3note.cpp."""

from __future__ import annotations

from ..._ggml.graph import Tensor
from ..attention import Kv, attend, k_input
from ..context import GraphContext
from ..indexer import Indexed, attend_best, best_cells, indexed_input
from ..latent import Sizes, absorbed, compressed, low_rank, sizes, split
from ..parts import embeddings, linear, logits, n_rot, norm, output_rows, positions, product, select
from .deepseek2 import feed_forward


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = embeddings(g, scale=False)
    layers = [x for x in g.model.layers if x.caches]
    index = indexed_input(g, k_input(g, [x for x in layers if not x.is_swa]))
    pos, window, rows = positions(g), k_input(g, [x for x in layers if x.is_swa]), output_rows(g)
    for il in g.layers:
        h = norm(g, x, "attn_norm", il)
        h, x = select(g, rows, il, _attention(g, index, window, h, pos, il), x)
        x = g.add(h, x)
        h = feed_forward(g, norm(g, x, "ffn_norm", il), il, "", scales=True)
        x = g.end_layer(g.add(h, x))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(logits(g, x, bias=False, scale=False), "result_output"))


def _sizes(g: GraphContext, il: int) -> Sizes:
    if not g.is_swa(il):
        return sizes(g)
    head, head_v = g.n("attention.key_length_mla_swa"), g.n("attention.value_length_mla_swa")
    return Sizes(head, head_v, n_rot(g), g.n("attention.kv_lora_rank_swa"))


def _attention(g: GraphContext, index: Indexed, window: Kv, h: Tensor, pos: Tensor, il: int) -> Tensor:
    s, n_head, v_mla = _sizes(g, il), g.n_head(il), g.need("attn_v_b.weight", il)
    row = low_rank(g, h, il)
    best = None if g.is_swa(il) else best_cells(g, index, h, row, pos, il)
    nope, pe = split(g, product(g, row, "attn_q_b", il=il), s, n_head)
    latent, k_pe = compressed(g, h, il, s)
    k_pe = g.rope(norm(g, k_pe, "attn_k_norm", il), pos)
    q, k, v = absorbed(g, nope, g.rope(pe, pos), latent, k_pe, il)
    if best is None:
        x = attend(g, window, q, k, v, il, out=None, v_mla=v_mla)
    else:
        x = attend_best(g, index.kv, q, k, v, best, il, out=None, v_mla=v_mla)
    gate = g.sigmoid(product(g, h, "attn_gate", il=il))
    x = g.mul(g.reshape(x, s.head_v, n_head, g.n_tokens), g.reshape(gate, 1, n_head, g.n_tokens))
    return linear(g, g.reshape(x, s.head_v * n_head, g.n_tokens), "attn_output", il, bias=False)
