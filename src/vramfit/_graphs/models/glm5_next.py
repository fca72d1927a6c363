"""GLM 5 Next: hyper connections around delta attention, and latent attention without positions over pools of keys.

Source: models/glm5-next.cpp.
"""

from __future__ import annotations

from math import inf

from ..._ggml.graph import Tensor
from ..._ggml.ops import Unbuildable
from ..attention import Kv, Scoring, cached_k, k_input, mha, store_k, values_in
from ..context import GraphContext
from ..experts import gating, routed, shared
from ..feed_forward import NO_LIMIT, ffn
from ..hyper import chosen_rows, mean, read, spread, write
from ..kda import by_sigmoid, by_softplus, kda
from ..latent import low_rank
from ..parts import embeddings, n_rot, norm, output_matrix, output_rows, product
from ..pools import Pools, attend_gathered, pools_input, select_pools
from ..recurrent import Rs, rs_input


def build(g: GraphContext) -> None:
    """Append the graph."""
    if n_rot(g):
        raise Unbuildable(f"{n_rot(g)} elements of a head are rotated where none may be")
    x = embeddings(g, scale=False)
    kv, rs, pools, rows = k_input(g), rs_input(g), pools_input(g), output_rows(g)
    x, chosen = spread(g, x), None
    for il in g.layers:
        h, gates = read(g, x, "hc_attn", il)
        h = g.expand(norm(g, h, "attn_norm", il))
        if g.is_recurrent(il):
            h = _delta(g, rs, h, il)
        else:
            h, chosen = _sparse(g, kv, pools, h, chosen, il)
        x = write(g, h, x, gates, il)
        h, gates = read(g, x, "hc_ffn", il)
        h = _feed_forward(g, norm(g, h, "ffn_norm", il), il)
        x = g.end_layer(write(g, h, x, gates, il))
    x = mean(g, chosen_rows(g, x, rows))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(g.mul_mat(output_matrix(g), x), "result_output"))


def _delta(g: GraphContext, rs: Rs, h: Tensor, il: int) -> Tensor:
    decay = product(g, h, "ssm_f_a", "ssm_f_b", il=il)
    bounded = g.hp("kda.gate_lower_bound", -inf) > -inf
    decay = by_sigmoid(g, decay, il, turned=True) if bounded else by_softplus(g, decay, il)
    return kda(g, rs, h, il, decay=decay, gate=product(g, h, "ssm_g_a", "ssm_g_b", il=il))


def _sparse(
    g: GraphContext, kv: Kv, pools: Pools, h: Tensor, chosen: Tensor | None, il: int
) -> tuple[Tensor, Tensor]:
    """Latent attention over what this layer's indexer chooses, or the last one's before it; and what that is."""
    n, n_head, v_mla = g.n_tokens, g.n_head(), g.need("attn_v_b.weight", il)
    row = low_rank(g, h, il)
    q = g.reshape(product(g, row, "attn_q_b", il=il), g.n("attention.key_length_mla"), n_head, n)
    latent = norm(g, product(g, h, "attn_kv_a_mqa", il=il), "attn_kv_a_norm", il)
    latent = g.reshape(latent, g.n("attention.kv_lora_rank"), 1, n)
    q = g.mul_mat(g.need("attn_k_b.weight", il), g.permute(q, 0, 2, 1, 3))
    q = g.permute(q, 0, 2, 1, 3)
    if any(c.kind == "indexer" for c in g.layer(il).caches):
        chosen = select_pools(g, pools, h, row, kv.mask, il)
    if chosen is None:
        raise Unbuildable("the first layer with attention has no indexer")
    g.expand(q)
    g.expand(latent)
    g.expand(store_k(g, latent, kv.k_idxs, il))
    if pools.gathers:
        x = attend_gathered(g, kv, pools, q, chosen, v_mla, il)
    else:
        mask = g.reshape(chosen, *kv.mask.ne)
        k = cached_k(g, il)
        x = mha(g, q, k, values_in(g, k, latent.ne[0]), Scoring(il, mask, v_mla=v_mla))
    return product(g, x, "attn_output", il=il), chosen


def _feed_forward(g: GraphContext, h: Tensor, il: int) -> Tensor:
    limit = g.hp("swiglu_clamp_exp", il=il)
    clamp, clamp_shared = (
        "op" if x > NO_LIMIT else "" for x in (limit, g.hp("swiglu_clamp_shexp", limit, il))
    )
    if not g.has("ffn_gate_inp.weight", il):
        return ffn(g, h, il, biases=False, clamp=clamp_shared)
    return g.add(routed(g, h, il, gating(g, "sigmoid"), clamp=clamp), shared(g, h, il, clamp=clamp_shared))
