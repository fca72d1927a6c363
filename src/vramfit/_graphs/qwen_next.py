"""Append what Qwen3-Next and its successors share: attention with a gate, the layer around a delta net, the shared expert.

In: a `GraphContext` and the input of a part. Out: the part's result, [n_embd, n_tokens].
Source: models/qwen3next.cpp, models/qwen35.cpp, models/qwen35moe.cpp.
"""

from __future__ import annotations

from collections.abc import Callable

from .._ggml.graph import Tensor
from .._ggml.ops import Unbuildable
from .attention import Kv, attend
from .context import GraphContext
from .delta_net import conv_window, delta_net, l2_normed
from .feed_forward import ffn, moe
from .parts import flat_qkv, linear, logits, norm, wide
from .recurrent import Rs, read_state

__all__ = [
    "decays",
    "finish",
    "gated_attention",
    "linear_attention",
    "linear_window",
    "mixture",
    "recurrent",
]


def gated_attention(
    g: GraphContext,
    kv: Kv,
    x: Tensor,
    pos: Tensor,
    il: int,
    *,
    reshapes: bool = False,
    biases: bool = True,
    attends: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Append attention whose queries come with a gate for the result, side by side in each head.

    `reshapes`: the engine looks at both through a reshape. `attends` makes the result instead of plain attention.
    """
    head, n_head, n_head_kv = g.head_v(), g.n_head(), g.n_head_kv()
    if head != g.head_k():
        raise Unbuildable(f"keys of {g.head_k()} and values of {head} elements")
    both, k, v = flat_qkv(g, x, il, (2 * head * n_head, head * n_head_kv, head * n_head_kv), bias=biases)
    if reshapes:
        both = wide(g, both, 2 * head, n_head)
    row = 2 * head * both.nb[0]
    q = g.view(both, (head, n_head, g.n_tokens), (row, row * n_head))
    gate = g.view(both, (head, n_head, g.n_tokens), (row, row * n_head), head * both.nb[0])
    q = g.rope(norm(g, q, "attn_q_norm", il), pos)
    k = g.rope(norm(g, wide(g, k, head, n_head_kv), "attn_k_norm", il), pos)
    v = wide(g, v, head, n_head_kv)
    x = attend(g, kv, q, k, v, il, out=None) if attends is None else attends(q, k, v)
    x = g.mul(x, g.sigmoid(g.cont(gate, head * n_head, g.n_tokens)))
    return linear(g, x, "attn_output", il, bias=False)


def decays(g: GraphContext, alpha: Tensor, il: int) -> Tensor:
    """Make the decay of each head: [1, heads, tokens, sequences]."""
    t = g.mul(g.softplus(g.add(alpha, g.need("ssm_dt.bias", il))), g.need("ssm_a", il))
    return g.reshape(t, 1, alpha.ne[0], g.n_seq_tokens, g.n_seqs)


def linear_window(g: GraphContext, rs: Rs, qkv: Tensor, il: int, *, copies: bool = False) -> Tensor:
    """Join what the short convolution of a layer slides over; `qkv` is [channels, tokens, sequences]."""
    kept = g.need("ssm_conv1d.weight", il).ne[0] - 1
    return conv_window(g, rs, qkv, g.state(il, 0), kept, copies=copies)


def linear_attention(
    g: GraphContext,
    rs: Rs,
    window: Tensor,
    z: Tensor,
    decay: Tensor,
    beta: Tensor,
    il: int,
    *,
    interleaved: bool = False,
    act: str = "silu",
) -> Tensor:
    """Append a short convolution, a delta net and a gate, behind the projections.

    `window` is what the convolution reads, `z` the gate, `act` its activation. Keys are repeated for the heads of
    the values: `interleaved` ones always, others where the fused operation does not run.
    """
    size, n_k, n_v = g.n("ssm.state_size"), g.n("ssm.group_count"), g.n("ssm.time_step_rank")
    n, seqs, inner = g.n_seq_tokens, g.n_seqs, g.n("ssm.inner_size")
    if not n_v or not n_k or n_v % n_k or inner // n_v != size:
        raise Unbuildable(f"{inner} channels in {n_v} heads of values and {n_k} of keys of {size}")
    state = g.reshape(read_state(g, rs, g.state(il, 1)), size, size, n_v, seqs)
    x = g.silu(g.ssm_conv(window, g.need("ssm_conv1d.weight", il)))
    row = size * x.nb[0]
    at, found = 0, []
    for heads in (n_k, n_k, n_v):
        found.append(g.view(x, (size, heads, n, seqs), (row, x.nb[1], x.nb[1] * n), at))
        at += row * heads
    q, k = l2_normed(g, found[0]), l2_normed(g, found[1])
    if n_k != n_v and interleaved:
        q, k = (_repeated(g, t, n_v // n_k) for t in (q, k))
    y = delta_net(g, q, k, found[2], decay, beta, state, il)
    gate = g.unary(act, g.reshape(z, size, n_v, n, seqs))
    y = g.reshape(g.mul(norm(g, y, "ssm_norm", il), gate), size * n_v, n, seqs)
    y = linear(g, y, "ssm_out", il, scale=not interleaved, bias=False)
    return g.reshape(y, g.n_embd, n * seqs)


def recurrent(
    g: GraphContext, rs: Rs, x: Tensor, il: int, *, act: str = "silu", copies: bool = False
) -> Tensor:
    """Append a layer around a delta net whose projections are one matrix each (build_layer_attn_linear of qwen35.cpp)."""
    heads, n, seqs = g.n("ssm.time_step_rank"), g.n_seq_tokens, g.n_seqs
    qkv = linear(g, x, "attn_qkv", il, bias=False)
    qkv = g.reshape(qkv, qkv.ne[0], n, seqs)
    z = linear(g, x, "attn_gate", il, bias=False)
    beta = g.sigmoid(g.reshape(linear(g, x, "ssm_beta", il, bias=False), 1, heads, n, seqs))
    alpha = g.reshape(linear(g, x, "ssm_alpha", il, bias=False), heads, n, seqs)
    window = linear_window(g, rs, qkv, il, copies=copies)
    return linear_attention(g, rs, window, z, decays(g, alpha, il), beta, il, act=act)


def _repeated(g: GraphContext, t: Tensor, times: int) -> Tensor:
    """Repeat each head equally often, one behind the other."""
    size, heads, n, seqs = t.ne
    t = g.repeat(g.reshape(t, size, 1, heads, n * seqs), size, times, heads, n * seqs)
    return g.reshape(t, size, heads * times, n, seqs)


def mixture(g: GraphContext, x: Tensor, il: int) -> Tensor:
    """Append experts, and one that all tokens go through, with a gate of one number for each token."""
    y = moe(g, x, il, gate_up="ffn_gate_up_exps", scales=True)
    if not g.has("ffn_up_shexp.weight", il):
        return y
    up, down = "ffn_up_shexp", "ffn_down_shexp"
    shared = ffn(g, x, il, up=up, gate="ffn_gate_shexp", down=down, biases=False, scales=True)
    gate = g.sigmoid(linear(g, x, "ffn_gate_inp_shexp", il, scale=False, bias=False))
    return g.add(y, g.mul(shared, gate))


def finish(g: GraphContext, x: Tensor, rows: Tensor) -> None:
    """Append the end of a model with a draft head: the hidden states of all tokens are an output, too."""
    x = g.output(norm(g, x, "output_norm"), "h_nextn")
    x = g.output(g.get_rows(x, rows), "result_norm")
    g.expand(g.output(logits(g, x, bias=False), "result_output"))
