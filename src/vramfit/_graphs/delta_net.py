"""Append delta nets: a state that each token corrects by the difference between a value and what the state says of its key.

In: queries, keys and values in heads, decays, strengths, the states. Out: the result, [head, heads, tokens, sequences].
The engine runs one fused operation, whatever the backends can (llama-context.cpp:233).
Source: models/delta-net-base.cpp.
"""

from __future__ import annotations

from .._ggml.graph import Tensor
from .._ggml.ops import Unbuildable
from .context import GraphContext
from .recurrent import Rs, read_state, slots

__all__ = ["conv_window", "delta_net", "delta_rule", "l2_normed"]

_OP = "gated_delta_net"


def l2_normed(g: GraphContext, x: Tensor) -> Tensor:
    """Divide rows by their length, as a norm and a factor (build_gdn_l2_norm)."""
    return g.scale(g.rms_norm(x))


def conv_window(
    g: GraphContext, rs: Rs, x: Tensor, states: Tensor, kept: int, *, copies: bool = False
) -> Tensor:
    """Join what a short convolution slides over, [kept + tokens, channels, sequences]; its last `kept` columns are kept.

    `x` is [channels, tokens, sequences]. The oldest of the states to go back to comes first (build_conv_state), or with `copies`,
    where they are copied once more on the way, last (build_conv_state_at of models/qwen4exp.cpp).
    """
    channels, seqs = x.ne[0], g.n_seqs
    before = g.reshape(read_state(g, rs, states), kept, channels, seqs)
    window = g.concat(before, g.transpose(x), 0)
    found = slots(g, states, x.ne[1], whole=True)
    for slot, at in found if copies else reversed(found):
        first = max(0, window.ne[0] - kept - slot) * window.nb[0]
        last = g.view(window, (kept, channels, seqs), window.nb[1:3], first)
        home = g.view(states, (kept * channels, seqs), (states.nb[1],), at)
        g.expand(g.cpy(g.cont(last) if copies else last, home))
    return window


def delta_net(
    g: GraphContext, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor, il: int
) -> Tensor:
    """Append a delta net, whose last states go back to the layer's second state (build_recurrent_attn).

    `decay` is [1 or head, heads, tokens, sequences], `beta` [1, heads, ...], `state` [head, head, heads, sequences].
    """
    if g.context.n_rs_seq:
        return _with_snapshots(g, q, k, v, decay, beta, state, il)
    y, end = delta_rule(g, q, k, v, decay, beta, state, il)
    states = g.state(il, 1)
    g.expand(g.cpy(end, g.view(states, (states.ne[0], g.n_seqs), (states.nb[1],))))
    return y


def _with_snapshots(
    g: GraphContext, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor, il: int
) -> Tensor:
    """The same where the states behind the last tokens are kept, too: always in one operation."""
    states, (size, heads, n, seqs) = g.state(il, 1), v.ne
    both = _operation(g, (q, k, v, decay, beta, state), il, 1 + g.context.n_rs_seq)
    row = size * both.nb[0]
    y = g.view(both, (size, heads, n, seqs), (row, row * heads, row * heads * n))
    width, written = size * size * heads, len(slots(g, states, n))
    each = width * both.nb[0]
    new = g.view(both, (width, seqs, written), (each, each * seqs), row * heads * n * seqs)
    home = g.view(states, (width, seqs, written), (states.nb[1], g.context.n_seq_max * states.nb[1]))
    g.expand(g.cpy(new, home))
    return y


def _operation(g: GraphContext, src: tuple[Tensor, ...], il: int, n_kept: int) -> Tensor:
    size, heads, n, seqs = src[2].ne
    ne = (size * heads, n * seqs + n_kept * size * seqs)
    return g.fused(g.of("GATED_DELTA_NET", ne, *src, params=(n_kept,)), il, _OP)


def delta_rule(
    g: GraphContext, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor, il: int
) -> tuple[Tensor, Tensor]:
    """Append a delta net; return its result and the states that it ends with (build_delta_net)."""
    if q.ne[0] != v.ne[0] or not q.ne[1] or v.ne[1] % q.ne[1]:
        raise Unbuildable(f"a delta net of keys {list(q.ne)} and values {list(v.ne)}")
    size, heads, n, seqs = v.ne
    both = _operation(g, (q, k, v, decay, beta, state), il, 1)
    row = size * both.nb[0]
    y = g.view(both, (size, heads, n, seqs), (row, row * heads, row * heads * n))
    at = row * heads * n * seqs
    return y, g.view(both, (size, size, heads, seqs), (row, row * size, row * size * heads), at)
