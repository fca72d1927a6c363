"""DeepSeek V4: hyper connections around attention over a window and compressed keys. Source: models/deepseek4.cpp."""

from __future__ import annotations

from ..._ggml.graph import Tensor
from ..._ggml.ops import Unbuildable
from ..._llama.model import Model
from ..compressed import Caches, attend_compressed, best_keys, caches, compress
from ..context import GraphContext
from ..experts import gating, shared
from ..feed_forward import moe
from ..hyper import chosen_rows, head, read, spread, write
from ..latent import low_rank
from ..parts import embeddings, norm, output_matrix, output_rows, positions, product

LIMIT = 1e-6  # what limits a gated unit must be above


def traits(model: Model, il: int) -> object:
    """What the next layer compresses, whose states come up before this layer has ended."""
    return tuple(x.kind for x in model.layers[il + 1].caches) if il + 1 < len(model.layers) else ()


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = embeddings(g)
    pos, rows, kept = positions(g), output_rows(g), caches(g)
    g.expand(kept.mask)
    x = spread(g, x)
    for il in g.layers:
        h, gates = read(g, x, "hc_attn", il)
        x = write(g, attention(g, kept, norm(g, h, "attn_norm", il), pos, il), x, gates, il)
        h, gates = read(g, x, "hc_ffn", il)
        for t in (x, *gates):
            g.expand(t)
        h = _experts(g, norm(g, h, "ffn_norm", il), il)
        x = g.end_layer(g.pin(write(g, h, x, gates, il), il))
    x = head(g, chosen_rows(g, x, rows))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(g.mul_mat(output_matrix(g), x), "result_output"))


def attention(g: GraphContext, kept: Caches, x: Tensor, pos: Tensor, il: int) -> Tensor:
    """Attention of a layer, whose output projection works by groups of heads."""
    size, n_head, groups = g.head_k(il), g.n_head(il), g.n("attention.output_group_count")
    if size != g.head_v(il) or not groups or n_head % groups:
        raise Unbuildable(f"{n_head} heads of {size} elements in {groups} groups")
    row = low_rank(g, x, il)
    q = g.reshape(product(g, row, "attn_q_b", il=il), size, n_head, g.n_tokens)
    q = g.rope(g.rms_norm(q), pos)
    key = g.reshape(norm(g, product(g, x, "attn_kv", il=il), "attn_kv_a_norm", il), size, 1, g.n_tokens)
    key = g.rope(key, pos)
    kinds = {c.kind for c in g.layer(il).caches}
    kind, best = next((k for k in ("csa", "hca") if k in kinds), None), None
    if kind is not None:
        compress(g, kept.of[kind], x, "attn_compressor", il, (0, 1), size)
    if "indexer" in kinds:
        index = kept.of["indexer"]
        compress(g, index, x, "indexer_compressor", il, (2, 3), g.n("attention.indexer.key_length"))
        best = best_keys(g, index, x, row, pos, il)
    y = attend_compressed(g, kept, q, key, il, kind, best, g.need("attn_sinks.weight", il))
    y = g.rope_back(g.reshape(y, size, n_head, g.n_tokens), pos)
    wide, rank = n_head // groups * size, g.n("attention.output_lora_rank")
    y = g.permute(g.reshape(y, wide, groups, g.n_tokens), 0, 2, 1, 3)
    y = g.mul_mat(g.reshaped("attn_output_a.weight", il, wide, rank, groups), y)
    y = g.cont(g.permute(y, 0, 2, 1, 3), rank * groups, g.n_tokens)
    return product(g, y, "attn_output_b", il=il)


def _experts(g: GraphContext, h: Tensor, il: int) -> Tensor:
    """Experts beside a shared one; the first layers choose them by the token alone."""
    table, hashed = g.w("ffn_gate_tid2eid.weight", il), None
    if table is not None and g.tokens is not None:
        hashed = g.get_rows(table, g.tokens)
    limit = g.hp("swiglu_clamp_exp", il=il)
    limit_shared = g.hp("swiglu_clamp_shexp", limit, il)
    experts = moe(
        g, h, il,
        gating=gating(g),
        norm=bool(g.hp("expert_weights_norm")),
        scale=g.hp("expert_weights_scale"),
        bias=None if hashed is not None else "exp_probs_b.bias",
        clamp="op" if limit > LIMIT else "",
        selected_in=hashed,
    )  # fmt: skip
    return g.add(experts, shared(g, h, il, clamp="op" if limit_shared > LIMIT else ""))
