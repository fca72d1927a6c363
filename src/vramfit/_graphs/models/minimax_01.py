"""MiniMax 01: lightning attention, whose state fades at a fixed rate, and plain attention in one layer of eight.

Source: models/minimax-01.cpp.
"""

from __future__ import annotations

from typing import NamedTuple

from ..._ggml.graph import Tensor
from ..._ggml.ops import F32, Unbuildable
from ..._llama.model import Model
from ..attention import attend, kv_input
from ..context import GraphContext
from ..feed_forward import moe
from ..parts import embeddings, logits, norm, output_rows, positions, product, qkv, select
from ..recurrent import Rs, before_recurrent, read_state, rs_input, write_state

ONE_SEQUENCE = True


def traits(model: Model, il: int) -> object:
    """Whether the next layer reads its state before this one has ended, and is the first to do so."""
    return before_recurrent(model, il)


class Fading(NamedTuple):
    """How much is left of what earlier tokens said, as logarithms (llm_graph_input_la)."""

    slopes: Tensor  # by head
    q: Tensor  # since the batch began
    k: Tensor  # until the batch ends
    between: Tensor  # from token to token


def build(g: GraphContext) -> None:
    """Append the graph."""
    if g.head_k() != g.head_v():
        raise Unbuildable(f"heads of {g.head_k()} and {g.head_v()} elements")
    x = embeddings(g, scale=False)
    kv, rs, pos, rows, fading = kv_input(g), rs_input(g), positions(g), output_rows(g), _fading(g)
    for il in g.layers:
        x = norm(g, x, "attn_norm", il)
        if g.is_recurrent(il):
            h = _lightning(g, rs, fading, x, il)
        else:
            q, k, v = qkv(g, x, il)
            h = attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il, bias=False)
        h, x = select(g, rows, il, h, x)
        x = norm(g, g.add(h, g.scale(x)), "ffn_norm", il)
        h = moe(g, x, il)
        x = g.end_layer(g.add(h, g.scale(x)))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(logits(g, x, bias=False), "result_output"))


def _fading(g: GraphContext) -> Fading:
    heads, n, seqs = g.n_head(), g.n_seq_tokens, g.n_seqs
    return Fading(
        g.input("slopes", F32, heads),
        g.input("q_decay_exp", F32, 1, heads, n, seqs),
        g.input("k_decay_exp", F32, 1, heads, n, seqs),
        g.input("diag_decay_exp", F32, n, n, heads, seqs),
    )


def _lightning(g: GraphContext, rs: Rs, fading: Fading, x: Tensor, il: int) -> Tensor:
    """A layer of lightning attention: what the state says, and what the batch says of itself."""
    head, heads, n, seqs = g.head_v(), g.n_head(), g.n_seq_tokens, g.n_seqs
    g.expand(read_state(g, rs, g.state(il, 0)))
    x = g.reshape(x, x.ne[0], n, 1, seqs)
    t = g.reshape(g.silu(product(g, x, "attn_qkv", il=il)), head * 3, heads, n, seqs)
    q, k, v = (g.view(t, (head, heads, n, seqs), t.nb[1:], i * t.nb[0] * head) for i in range(3))
    states = g.state(il, 1)
    old = g.reshape(read_state(g, rs, states), head, head, heads, seqs)
    q_left, k_left, between = (g.exp(g.scale(decay)) for decay in fading[1:])
    before = g.mul_mat(old, g.permute(g.mul(q, q_left), 0, 2, 1, 3))
    scores = g.mul(g.mul_mat(g.permute(k, 0, 2, 1, 3), g.permute(q, 0, 2, 1, 3)), between)
    v = g.cont(g.permute(v, 1, 2, 0, 3))
    y = g.expand(g.add(before, g.mul_mat(v, scores)))
    left = g.reshape(g.exp(g.scale(g.scale(fading.slopes))), 1, 1, heads)
    k = g.cont(g.permute(g.mul(k, k_left), 1, 2, 0, 3))
    write_state(g, g.add(g.mul(old, left), g.mul_mat(k, v)), states)
    y = g.cont(g.permute(y, 0, 2, 1, 3))
    y = norm(g, g.reshape(y, head * heads, n, 1, seqs), "attn_norm_2", il)
    gate = g.sigmoid(product(g, x, "attn_gate", il=il))
    y = product(g, g.mul(gate, y), "attn_output", il=il)
    return g.reshape(y, y.ne[0], n * seqs)
