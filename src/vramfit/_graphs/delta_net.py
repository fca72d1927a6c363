"""Append delta nets: a state that each token corrects by the difference between a value and what the state says of its key.

In: queries, keys and values in heads, decays, strengths, the states. Out: the result, [head, heads, tokens, sequences].
The engine runs one fused operation where every backend can, else many: token by token, or in chunks of a matrix each.
Source: models/delta-net-base.cpp.
"""

from __future__ import annotations

from .._ggml.graph import Tensor
from .._ggml.ops import Unbuildable
from .context import GraphContext
from .recurrent import Rs, read_state

__all__ = ["conv_window", "delta_net", "delta_rule", "l2_normed"]

CHUNK = 64  # tokens that the fallback works on at once
CHUNK_BY_CHANNEL = 16  # the same where each channel of a key decays on its own (KDA)
_OP = "gated_delta_net"


def l2_normed(g: GraphContext, x: Tensor) -> Tensor:
    """Divide rows by their length, as a norm and a factor (build_gdn_l2_norm)."""
    return g.scale(g.rms_norm(x))


def conv_window(
    g: GraphContext, rs: Rs, x: Tensor, states: Tensor, kept: int, *, copies: bool = False
) -> Tensor:
    """Join what a short convolution slides over, [kept + tokens, channels, sequences]; its last `kept` columns are kept.

    `x` is [channels, tokens, sequences]. `copies`: they are copied once more on the way (build_conv_state, and
    build_conv_state_at of models/qwen4exp.cpp).
    """
    channels, seqs = x.ne[0], g.n_seqs
    before = g.reshape(read_state(g, rs, states), kept, channels, seqs)
    window = g.concat(before, g.transpose(x), 0)
    slots = 1 + g.context.n_rs_seq
    for slot in reversed(range(slots)):  # the oldest of the states to go back to comes first
        at = max(0, window.ne[0] - kept - slot) * window.nb[0]
        last = g.view(window, (kept, channels, seqs), window.nb[1:3], at)
        home = g.view(
            states, (kept * channels, seqs), (states.nb[1],), slot * g.context.n_seq_max * states.nb[1]
        )
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
    slots, states = 1 + g.context.n_rs_seq, g.state(il, 1)
    both = _operation(g, (q, k, v, decay, beta, state), il, slots)
    (size, heads, n, seqs), row = v.ne, v.ne[0] * both.nb[0]
    y = g.view(both, (size, heads, n, seqs), (row, row * heads, row * heads * n))
    width, written = size * size * heads, min(n, slots)
    each = width * both.nb[0]
    new = g.view(both, (width, seqs, written), (each, each * seqs), row * heads * n * seqs)
    home = g.view(states, (width, seqs, written), (states.nb[1], g.context.n_seq_max * states.nb[1]))
    g.expand(g.cpy(new, home))
    return y


def _operation(g: GraphContext, src: tuple[Tensor, ...], il: int, slots: int) -> Tensor:
    size, heads, n, seqs = src[2].ne
    ne = (size * heads, n * seqs + slots * size * seqs)
    return g.fused(g.of("GATED_DELTA_NET", ne, *src, params=(slots,)), il, _OP)


def delta_rule(
    g: GraphContext, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor, il: int
) -> tuple[Tensor, Tensor]:
    """Append a delta net; return its result and the states that it ends with (build_delta_net)."""
    if q.ne[0] != v.ne[0] or not q.ne[1] or v.ne[1] % q.ne[1]:
        raise Unbuildable(f"a delta net of keys {list(q.ne)} and values {list(v.ne)}")
    if g.fuses(_OP):
        return _fused(g, q, k, v, decay, beta, state, il)
    return (_one_token if q.ne[2] == 1 else _chunks)(g, q, k, v, decay, beta, state)


def _fused(
    g: GraphContext, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor, il: int
) -> tuple[Tensor, Tensor]:
    """Append one operation that makes the result and, behind it, the states."""
    size, heads, n, seqs = v.ne
    both = _operation(g, (q, k, v, decay, beta, state), il, 1)
    row = size * both.nb[0]
    y = g.view(both, (size, heads, n, seqs), (row, row * heads, row * heads * n))
    at = row * heads * n * seqs
    return y, g.view(both, (size, size, heads, seqs), (row, row * size, row * size * heads), at)


def _one_token(
    g: GraphContext, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Append the rule for a single token (build_delta_net_autoregressive)."""
    heads, seqs = v.ne[1], v.ne[3]
    q, k, v = (g.permute(t, 0, 2, 1, 3) for t in (g.scale(q), k, v))
    state = g.mul(state, g.exp(g.reshape(decay, 1, decay.ne[0], heads, seqs)))
    said = g.sum_rows(g.mul(state, k))
    error = g.mul(g.sub(v, g.transpose(said)), g.reshape(beta, 1, 1, heads, seqs))
    state = g.add(state, g.mul(g.repeat(k, *state.ne), g.transpose(error)))
    return g.permute(g.sum_rows(g.mul(state, q)), 2, 0, 1, 3), state


def _chunks(
    g: GraphContext, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Append the rule for chunks of tokens, each solved as a triangular system (build_delta_net_chunking)."""
    by_channel = decay.ne[:2] == q.ne[:2]
    size, (head, heads, n, seqs) = CHUNK_BY_CHANNEL if by_channel else CHUNK, v.ne
    q, k, v, decay, beta = (
        g.pad(g.permute(t, 0, 2, 1, 3), 0, -n % size) for t in (g.scale(q), k, v, decay, beta)
    )
    count = q.ne[1] // size

    def cut(t: Tensor) -> Tensor:
        return g.reshape(t, t.ne[0], size, count, t.ne[2] * seqs)

    v_b, k_b = cut(g.mul(v, beta)), cut(g.mul(k, beta))
    q, k = cut(q), cut(k)
    total = g.cumsum(g.cont(g.transpose(cut(decay))))
    kk, kq = (_products_by_channel if by_channel else _products)(g, q, k, k_b, total)
    lower = g.tri(kk)
    one = g.diag(g.fill(g.view(lower, (size,))))
    solved = g.add(g.solve_tri(g.add(lower, one), g.neg(lower)), one)
    v = g.mul_mat(_turned(g, v_b), solved)
    grown = g.exp(total)
    k_seen = g.mul_mat(g.mul(_turned(g, k_b), grown), solved)
    q_seen = g.mul(q, _turned(g, grown))
    end = g.cont(g.view(total, (1, *total.ne[1:]), total.nb[1:], (size - 1) * total.nb[0]))
    fades = g.transpose(g.exp(end))
    left = g.neg(g.sub(total, end))
    k_left = _turned(g, g.mul(k, _turned(g, g.exp(left))))
    parts = (k_seen, _turned(g, v), g.tri(kq), q_seen, k_left, fades)
    v, state = _chain(g, v, g.reshape(state, head, head, 1, heads * seqs), parts)
    row = head * v.nb[0]
    y = g.view(v, (head, n, heads, seqs), (row, row * size * count, row * size * count * heads))
    return g.permute(y, 0, 2, 1, 3), g.reshape(state, head, head, heads, seqs)


def _turned(g: GraphContext, t: Tensor) -> Tensor:
    return g.cont(g.transpose(t))


def _products(g: GraphContext, q: Tensor, k: Tensor, k_b: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """Multiply the keys of a chunk with its keys and queries, faded by the decay between them."""
    size, count, n = total.ne[0], total.ne[2], total.ne[3]
    later = g.repeat(g.reshape(total, 1, size, count, n), size, size, count, n)
    mask = g.exp(g.tri(g.sub(later, total)))
    return g.mul(g.mul_mat(k, k_b), mask), g.mul(g.mul_mat(k, q), mask)


def _products_by_channel(
    g: GraphContext, q: Tensor, k: Tensor, k_b: Tensor, total: Tensor
) -> tuple[Tensor, Tensor]:
    """Multiply as `_products` does, with a decay for each channel of a key."""
    head, size, count, n = k.ne
    all_ = count * n
    later = g.repeat(g.reshape(total, 1, size, head, all_), size, size, head, all_)
    mask = g.exp(g.tri(g.sub(later, g.reshape(total, size, 1, head, all_))))
    mask = g.cont(g.permute(mask, 2, 1, 0, 3), head, size, size, all_)
    column = g.reshape(k, head, 1, size, all_)

    def product(t: Tensor) -> Tensor:
        faded = g.mul(mask, g.reshape(t, head, size, 1, all_))
        return _turned(g, g.reshape(g.mul_mat(faded, column), size, size, count, n))

    return product(k_b), product(q)


def _chain(g: GraphContext, y: Tensor, state: Tensor, parts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Run the chunks one after the other: each reads the state and changes it; results are written into `y`."""
    for chunk in range(y.ne[2]):
        k_seen, v, kq, q_seen, k_left, fade = (
            g.view(t, (t.ne[0], t.ne[1], 1, t.ne[3]), t.nb[1:], t.nb[2] * chunk) for t in parts
        )
        new = g.sub(v, g.mul_mat(k_seen, state))
        within = g.mul_mat(new, kq)
        y = g.set_in_place(y, g.add(g.mul_mat(state, q_seen), within))
        state = g.add(g.mul(state, fade), g.mul_mat(k_left, new))
    return y, state
