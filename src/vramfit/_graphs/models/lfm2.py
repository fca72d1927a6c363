"""LFM 2: short convolutions, attention in some layers; dense or a mixture. Source: models/lfm2.cpp, models/lfm2moe.cpp."""

from __future__ import annotations

from typing import Final

from ..._ggml.graph import Tensor
from ..._ggml.ops import Unbuildable
from ..._llama.model import Model
from ..attention import Kv, Windowed, attend, kv_input, windowed_input
from ..context import GraphContext
from ..feed_forward import ffn, moe
from ..parts import embeddings, linear, logits, norm, output_rows, positions, qkv, select
from ..recurrent import Rs, before_recurrent, read_state, rs_input, slots

_GATING: Final = {1: "softmax", 2: "sigmoid", 3: "softmax_weight", 4: "sqrt_softplus"}
_PARTS: Final = 3  # of the convolution's projection: two gates, and what is convolved


def traits(model: Model, il: int) -> int:
    """Whether a layer's nodes mingle with those of the next one."""
    return before_recurrent(model, il)


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = embeddings(g)
    windowed = any(g.is_swa(il) for il in g.known.trunk)
    rs, kv = rs_input(g), windowed_input(g, rotates=False) if windowed else kv_input(g)
    pos, rows = positions(g), output_rows(g)
    for il in g.layers:
        h = norm(g, x, "attn_norm", il)
        h = _convolution(g, rs, h, il) if g.is_recurrent(il) else _attention(g, kv, h, pos, il)
        h, x = select(g, rows, il, h, x)
        x = g.add(x, h)
        h = norm(g, x, "ffn_norm", il)
        h = _experts(g, h, il) if g.has("ffn_gate_inp.weight", il) else ffn(g, h, il, biases=False)
        x = g.end_layer(g.add(x, h))
    x = g.output(norm(g, x, "token_embd_norm"), "result_norm")
    if not g.run.embeddings:
        x = g.output(logits(g, x, bias=False), "result_output")
    g.expand(x)


def _attention(g: GraphContext, kv: Kv | Windowed, x: Tensor, pos: Tensor, il: int) -> Tensor:
    q, k, v = qkv(g, x, il, n_head_kv=g.n_head_kv(il))
    q, k = norm(g, q, "attn_q_norm", il), norm(g, k, "attn_k_norm", il)
    return attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il, bias=False)


def _convolution(g: GraphContext, rs: Rs, x: Tensor, il: int) -> Tensor:
    """A gated convolution over a few tokens; without causality over as many on both sides."""
    kept, seqs, states = g.n("shortconv.l_cache") - 1, g.n_seqs, g.state(il, 0)
    if kept < 1:
        raise Unbuildable("a convolution over one token")
    x = g.reshape(x, x.ne[0], g.n_seq_tokens, seqs)
    t = linear(g, x, "shortconv.in_proj", il, scale=False, bias=False)
    if t.ne[0] % _PARTS:
        raise Unbuildable(f"{t.ne[0]} channels are no {_PARTS} parts")
    n = t.ne[0] // _PARTS
    before, after, x = (g.view(t, (n, *t.ne[1:3]), t.nb[1:3], i * n * t.nb[0]) for i in range(_PARTS))
    x = g.transpose(g.mul(before, x))
    past = g.reshape(read_state(g, rs, states), kept, g.n_embd, seqs)
    if g.model.is_causal:
        window = g.concat(past, x, 0)
    else:
        side = kept // 2
        left = g.view(past, (side, g.n_embd, seqs), past.nb[1:3], (kept - side) * past.nb[0])
        window = g.pad(g.concat(g.cont(left), x, 0), side)
    if window.ne[0] <= kept:
        raise Unbuildable(f"a window of {window.ne[0]} tokens, of which {kept} are kept")
    for slot, home in slots(g, states, g.n_seq_tokens if g.model.is_causal else 1):
        at = (window.ne[0] - kept - slot) * window.nb[0]
        end = g.view(window, (kept, *window.ne[1:3]), window.nb[1:3], at)
        g.expand(g.cpy(end, g.view(states, (kept * g.n_embd, seqs), (states.nb[1],), home)))
    y = g.mul(after, g.ssm_conv(window, g.need("shortconv.conv.weight", il)))
    y = linear(g, y, "shortconv.out_proj", il, scale=False, bias=False)
    return g.reshape(y, y.ne[0], g.n_tokens)


def _experts(g: GraphContext, x: Tensor, il: int) -> Tensor:
    gating = _GATING.get(g.n("expert_gating_func"), "no way")
    return moe(g, x, il, gating=gating, bias="exp_probs_b.bias")
