"""GroveMoE: experts, and over their result adjugate experts that several of them share. Source: models/grovemoe.cpp."""

from __future__ import annotations

from ..._ggml.graph import Tensor
from ..._ggml.ops import F32, I32, Unbuildable
from ..attention import attend, kv_input
from ..context import GraphContext
from ..decoder import finish, normed_rope
from ..feed_forward import choose, moe
from ..parts import check_heads, embeddings, norm, output_rows, positions, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = embeddings(g)
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        q, k = normed_rope(g, q, k, pos, il)
        h, x = select(g, rows, il, attend(g, kv, q, k, v, il), x)
        x = g.add(h, x)
        h = norm(g, x, "ffn_norm", il)
        scores = g.mul_mat(g.need("ffn_gate_inp.weight", il), h)
        chosen = choose(g, g.sigmoid(scores), il, g.n_expert, g.n_expert_used())
        h = moe(g, h, il, logits_in=scores, selected_in=chosen)
        h = g.add(h, g.scale(_adjugate(g, h, scores, il)))
        x = g.end_layer(g.add(h, x))
    finish(g, x)


def _adjugate(g: GraphContext, x: Tensor, scores: Tensor, il: int) -> Tensor:
    """The experts of the groups that the chosen ones belong to; there must be as many groups as experts are used."""
    group = g.n("experts_per_group")
    total = g.n_expert // group
    used = min(g.n_expert_used(), total)
    if used < g.n_expert_used(il):
        raise Unbuildable(f"{g.n_expert_used(il)} of {total} groups of experts are used")
    chosen = choose(g, g.sigmoid(scores), il, total, used)
    if total != g.n_expert:
        chosen = g.cast(g.scale(g.cast(chosen, F32)), I32)
    up, gate, down = "ffn_up_chexps", "ffn_gate_chexps", "ffn_down_chexps"
    return moe(g, x, il, up=up, gate=gate, down=down, n_used=used, logits_in=scores, selected_in=chosen)
