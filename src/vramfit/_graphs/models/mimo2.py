"""MiMo 2: sinks, windows, and values narrower than keys. Source: models/mimo2.cpp."""

from __future__ import annotations

from ..._ggml.graph import Tensor
from ..attention import Windowed, attend, windowed_input
from ..context import GraphContext
from ..decoder import finish
from ..feed_forward import ffn, moe
from ..parts import embeddings, linear, norm, output_rows, positions, select, wide


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = embeddings(g)
    pos, kv, rows = positions(g), windowed_input(g), output_rows(g)
    for il in g.layers:
        h = attention(g, kv, norm(g, x, "attn_norm", il), pos, il)
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        h = norm(g, x, "ffn_norm", il)
        if g.has("ffn_gate_inp.weight", il):
            h = moe(g, h, il, gating="sigmoid", bias="exp_probs_b.bias")
        else:
            h = ffn(g, h, il)
        x = g.end_layer(g.add(h, x))
    finish(g, x)


def attention(
    g: GraphContext, kv: Windowed, h: Tensor, pos: Tensor, il: int, *, scales: bool = False
) -> Tensor:
    """Attention with sinks, whose result is scaled where the header says so. `scales`: so is what one matrix makes of `h`."""
    q, k, v = _heads(g, h, il, scales)
    sinks, scale = g.w("attn_sinks.weight", il), g.hp("attention.value_scale", 1)
    h = attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il, bias=False, sinks=sinks)
    return g.scale(h) if scale not in (0, 1) else h


def _heads(g: GraphContext, x: Tensor, il: int, scales: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values in heads, by weights alone; `scales`: one matrix for all has its scale."""
    n, n_kv, head_k, head_v = g.n_head(il), g.n_head_kv(il), g.head_k(), g.head_v()
    if not g.has("attn_qkv.weight", il):
        q, k, v = (g.mul_mat(g.need(f"attn_{c}.weight", il), x) for c in "qkv")
        return wide(g, q, head_k, n), wide(g, k, head_k, n_kv), wide(g, v, head_v, n_kv)
    x = linear(g, x, "attn_qkv", il, scale=scales, bias=False)
    row_k, row_v = head_k * x.nb[0], head_v * x.nb[0]
    return (
        g.view(x, (head_k, n, g.n_tokens), (row_k, x.nb[1])),
        g.view(x, (head_k, n_kv, g.n_tokens), (row_k, x.nb[1]), n * row_k),
        g.view(x, (head_v, n_kv, g.n_tokens), (row_v, x.nb[1]), (n + n_kv) * row_k),
    )
