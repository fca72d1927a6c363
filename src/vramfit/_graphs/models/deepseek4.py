"""DeepSeek V4: hyper connections around attention over a window and compressed keys. Source: models/deepseek4.cpp."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..._ggml.graph import Tensor
from ..._ggml.ops import Unbuildable
from ..._llama.model import Model
from ..attention import Kv, Scoring, cached_k, mha, store_k, values_in, windowed_input
from ..compressed import Caches, attend_compressed, best_keys, caches, compress
from ..context import GraphContext
from ..drafts import draft_tokens
from ..experts import gating, shared
from ..feed_forward import NO_LIMIT, moe
from ..hyper import chosen_rows, head, read, spread, write
from ..latent import low_rank
from ..parts import embeddings, norm, output_matrix, output_rows, positions, product


def traits(model: Model, il: int) -> object:
    """What the next layer compresses, whose states come up before this layer has ended."""
    return tuple(x.kind for x in model.layers[il + 1].caches) if il + 1 < len(model.layers) else ()


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = embeddings(g, scale=False)
    pos, rows, kept = positions(g), output_rows(g), caches(g)
    g.expand(kept.mask)
    x = spread(g, x)
    for il in g.layers:
        h, gates = read(g, x, "hc_attn", il)
        h = _attention(g, norm(g, h, "attn_norm", il), pos, il, partial(_over_caches, g, kept, pos, il))
        x = write(g, h, x, gates, il)
        h, gates = read(g, x, "hc_ffn", il)
        for t in (x, *gates):
            g.expand(t)
        h = _experts(g, norm(g, h, "ffn_norm", il), il)
        x = g.end_layer(g.pin(g.steered(write(g, h, x, gates, il)), il), steers=False)
    x = head(g, chosen_rows(g, x, rows))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(g.mul_mat(output_matrix(g), x), "result_output"))


def draft(g: GraphContext) -> tuple[Tensor, Tensor]:
    """The same layers as a draft, over windows alone: the tokens, and one stream behind the last layer (graph_dsv4)."""
    pos, window = positions(g), windowed_input(g).window
    tokens, x = draft_tokens(g)
    x = spread(g, x)
    for il in g.layers:
        x = g.end_layer(windowed_layer(g, window, x, pos, il))
    return tokens, head(g, x)


def windowed_layer(g: GraphContext, window: Kv, x: Tensor, pos: Tensor, il: int) -> Tensor:
    """A layer that attends to a window alone, up to where it ends."""
    h, gates = read(g, x, "hc_attn", il)
    h = _attention(g, norm(g, h, "attn_norm", il), pos, il, partial(_over_window, g, window, il))
    x = write(g, h, x, gates, il)
    h, gates = read(g, x, "hc_ffn", il)
    return write(g, _experts(g, norm(g, h, "ffn_norm", il), il), x, gates, il)


def _attention(
    g: GraphContext,
    x: Tensor,
    pos: Tensor,
    il: int,
    attend: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """Attention of a layer, whose output projection works by groups of heads.

    `attend` gets the input, the short row of the queries, the queries, and the key that is the value, too.
    """
    size, n_head, groups = g.head_k(il), g.n_head(il), g.n("attention.output_group_count")
    if size != g.head_v(il) or not groups or n_head % groups:
        raise Unbuildable(f"{n_head} heads of {size} elements in {groups} groups")
    row = low_rank(g, x, il)
    q = g.reshape(product(g, row, "attn_q_b", il=il), size, n_head, g.n_tokens)
    key = norm(g, product(g, x, "attn_kv", il=il), "attn_kv_a_norm", il)
    key = g.rope(g.reshape(key, size, 1, g.n_tokens), pos)
    y = attend(x, row, g.rope(g.rms_norm(q), pos), key)
    y = g.rope_back(g.reshape(y, size, n_head, g.n_tokens), pos)
    wide, rank = n_head // groups * size, g.n("attention.output_lora_rank")
    y = g.permute(g.reshape(y, wide, groups, g.n_tokens), 0, 2, 1, 3)
    y = g.mul_mat(g.reshaped("attn_output_a.weight", il, wide, rank, groups), y)
    y = g.cont(g.permute(y, 0, 2, 1, 3), rank * groups, g.n_tokens)
    return product(g, y, "attn_output_b", il=il)


def _over_caches(
    g: GraphContext, kept: Caches, pos: Tensor, il: int, x: Tensor, row: Tensor, q: Tensor, key: Tensor
) -> Tensor:
    """Attention over the window and what is compressed, which first takes in what the batch adds."""
    kinds = {c.kind for c in g.layer(il).caches}
    kind, best = next((k for k in ("csa", "hca") if k in kinds), None), None
    if kind is not None:
        compress(g, kept.of[kind], x, "attn_compressor", il, (0, 1), g.head_k(il))
    if "indexer" in kinds:
        index = kept.of["indexer"]
        compress(g, index, x, "indexer_compressor", il, (2, 3), g.n("attention.indexer.key_length"))
        best = best_keys(g, index, x, row, pos, il)
    return attend_compressed(g, kept, q, key, il, kind, best, g.need("attn_sinks.weight", il))


def _over_window(g: GraphContext, kv: Kv, il: int, x: Tensor, row: Tensor, q: Tensor, key: Tensor) -> Tensor:
    """Attention over a window, whose keys are values, too (build_attn of llm_graph_input_attn_k_iswa)."""
    if kv.k_rot is not None:
        q, key = g.hadamard(q, kv.k_rot), g.hadamard(key, kv.k_rot)
    g.expand(q)
    g.expand(key)
    g.expand(store_k(g, key, kv.k_idxs, il))
    k = cached_k(g, il)
    how = Scoring(il, kv.mask, sinks=g.need("attn_sinks.weight", il))
    y = mha(g, q, k, values_in(g, k, key.ne[0]), how)
    return y if kv.k_rot is None else g.hadamard(y, kv.k_rot)


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
        clamp="op" if limit > NO_LIMIT else "",
        selected_in=hashed,
    )  # fmt: skip
    return g.add(experts, shared(g, h, il, clamp="op" if limit_shared > NO_LIMIT else ""))
