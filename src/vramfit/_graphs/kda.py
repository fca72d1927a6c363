"""Append Kimi delta attention: a delta net whose decay each channel of a key has on its own, behind short convolutions.

In: a `GraphContext`, the normed input of a layer. Out: the result of the layer, [n_embd, n_tokens].
Source: models/kimi-linear.cpp, and its kin models/bailingmoe3.cpp, models/kimi-k3.cpp, models/glm5-next.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence

from .._ggml.graph import Tensor
from .context import GraphContext
from .delta_net import delta_net, delta_rule, l2_normed
from .parts import norm, product
from .recurrent import Rs, read_state, slots

__all__ = ["by_sequence", "by_sigmoid", "by_softplus", "kda"]


def kda(
    g: GraphContext, rs: Rs, x: Tensor, il: int, *, decay: Tensor, gate: Tensor,
    inputs: Sequence[Tensor] = (), as_row: bool = False, whole: bool = True,
) -> Tensor:  # fmt: skip
    """Append a layer of Kimi delta attention.

    `decay` is the logarithm of what each channel keeps, in heads. `gate` weighs the normed result before its
    projection. `inputs` are queries, keys and values where one matrix made them. `as_row`: how states are written. `whole`: every
    state to go back to is written, also by batches with fewer tokens than there are such states.
    """
    head, n_head, n, seqs = g.n("kda.head_dim"), g.n_head(), g.n_seq_tokens, g.n_seqs
    q, k, v = _convolved(g, rs, x, il, inputs, whole)
    beta = g.sigmoid(g.reshape(product(g, x, "ssm_beta", il=il), 1, n_head, n, seqs))
    states = g.state(il, 1)
    state = g.reshape(read_state(g, rs, states), head, head, n_head, seqs)
    decay = g.reshape(decay, head, n_head, n, seqs)
    q, k = l2_normed(g, q), l2_normed(g, k)
    if as_row:
        y, end = delta_rule(g, q, k, v, decay, beta, state, il)
        g.expand(g.cpy(end, g.view(states, (states.ne[0] * seqs,))))
    else:
        y = delta_net(g, q, k, v, decay, beta, state, il)
    y = norm(g, g.reshape(g.cont(y), head, n_head, n * seqs), "ssm_norm", il)
    y = g.mul(y, g.sigmoid(g.reshape(gate, head, n_head, n * seqs)))
    return product(g, g.cont(y, head * n_head, n * seqs), "attn_output", il=il)


def _convolved(
    g: GraphContext, rs: Rs, x: Tensor, il: int, inputs: Sequence[Tensor], whole: bool
) -> list[Tensor]:
    """Put queries, keys and values through a convolution over the last tokens, which are kept; return them in heads."""
    kernel, head, n_head = g.n("ssm.conv_kernel"), g.n("kda.head_dim"), g.n_head()
    inner, seqs, n = head * n_head, g.n_seqs, g.n_seq_tokens
    states = g.state(il, 0)
    before, made = read_state(g, rs, states), []
    element = before.nb[0]
    part, strides = (
        (kernel - 1) * inner * element,
        ((kernel - 1) * element, 3 * (kernel - 1) * inner * element),
    )
    for i, name in enumerate("qkv"):
        kept = g.view(before, (kernel - 1, inner, seqs), strides, i * part)
        t = inputs[i] if inputs else product(g, x, f"attn_{name}", il=il)
        window = g.concat(kept, g.transpose(g.reshape(t, inner, n, seqs)), 0)
        for slot, home in slots(g, states, n, whole=whole):
            at = max(0, n - slot) * window.nb[0]
            last = g.view(window, (kernel - 1, inner, seqs), window.nb[1:3], at)
            g.expand(g.cpy(last, g.view(states, (kernel - 1, inner, seqs), strides, home + i * part)))
        t = g.ssm_conv(window, g.reshape(g.need(f"ssm_conv1d_{name}.weight", il), kernel, inner))
        made.append(g.reshape(g.silu(g.reshape(t, inner, n * seqs)), head, n_head, n, seqs))
    return made


def by_sequence(g: GraphContext, x: Tensor) -> Tensor:
    """Cut a tensor into sequences and join it again: two views of it, as the engine takes them."""
    return g.reshape(g.reshape(x, x.ne[0], g.n_seq_tokens, g.n_seqs), x.ne[0], g.n_tokens)


def by_softplus(g: GraphContext, x: Tensor, il: int) -> Tensor:
    """Make the decay as Mamba has it: a rate by head times a softplus of `x`."""
    x = g.softplus(g.add(x, g.need("ssm_dt.bias", il)))
    return g.mul(_in_heads(g, x), _rates(g, il))


def by_sigmoid(g: GraphContext, x: Tensor, il: int, *, turned: bool) -> Tensor:
    """Make the decay between a lower bound and zero; `turned`: the rates are negative."""
    x = g.mul(_in_heads(g, g.add(x, g.need("ssm_dt.bias", il))), _rates(g, il))
    return g.scale(g.sigmoid(g.scale(x) if turned else x))


def _in_heads(g: GraphContext, x: Tensor) -> Tensor:
    return g.reshape(x, g.n("kda.head_dim"), g.n_head(), g.n_tokens)


def _rates(g: GraphContext, il: int) -> Tensor:
    return g.reshape(g.need("ssm_a", il), 1, g.n_head(), 1)
