"""Recurrent states: how a layer reads its state, works on it, and writes it back; Mamba's two layers.

In: a `GraphContext`, the input of a layer. Out: the layer's result, [n_embd, n_tokens].
Source: `build_rs` (llama-graph.cpp:3512-3590), models/mamba-base.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .._ggml.graph import Tensor
from .._ggml.ops import I32, Unbuildable
from .._llama.model import Model
from .context import GraphContext
from .parts import linear, norm

__all__ = [
    "Rs",
    "before_recurrent",
    "is_first_recurrent",
    "mamba",
    "mamba2",
    "read_state",
    "rs_input",
    "slots",
    "write_state",
]


class Rs(NamedTuple):
    """Which states the sequences of the batch continue (llm_graph_input_rs)."""

    main: Tensor  # those that the batch works on
    extra: Tensor  # those that only move


def is_first_recurrent(model: Model, il: int) -> bool:
    """Tell whether a layer is the first that keeps a state: its nodes make what all of them read the indices by."""
    return model.layers[il].is_recurrent and not any(x.is_recurrent for x in model.layers[:il])


def before_recurrent(model: Model, il: int) -> int:
    """Tell whether the next layer keeps a state (1), as the first one (2), or none (0): it reads it before layer `il` is done.

    What a builder's `traits` need where kinds of layers alternate and nothing is expanded between them.
    """
    if il + 1 >= len(model.layers) or not model.layers[il + 1].is_recurrent:
        return 0
    return 2 if is_first_recurrent(model, il + 1) else 1


def rs_input(g: GraphContext) -> Rs:
    """Append the indices of the states (build_rs_inp, 3546): as many as there are slots."""
    n, seqs = g.context.n_seq_max, g.n_seqs
    ids = g.input("rs_s_copy", I32, n)
    return Rs(g.view(ids, (seqs,)), g.view(ids, (n - seqs,), (), seqs * ids.nb[0]))


def read_state(
    g: GraphContext, rs: Rs, state: Tensor, read: Callable[[Tensor, Tensor], Tensor] | None = None
) -> Tensor:
    """Read the states of the batch's sequences, [elements, n_seqs], or what `read(states, ids)` makes of them.

    One state is cleared first, and those that only move are copied behind (build_rs, 3512).
    """
    size, n = state.ne[0], state.ne[1]
    states = g.reshape(state, size, n)
    g.expand(g.scale_in_place(g.view(states, (size,))))
    found = g.expand((read or g.get_rows)(states, rs.main))
    moved = g.get_rows(states, rs.extra)
    more = g.context.n_seq_max - g.n_seqs
    rest = g.view(state, (size, more), (state.nb[1],), g.n_seqs * state.nb[1])
    g.expand(g.cpy(moved, rest))
    return found


def slots(g: GraphContext, states: Tensor, n_tokens: int, *, whole: bool = False) -> list[tuple[int, int]]:
    """List the states that a batch of `n_tokens` of each sequence writes: how many tokens ago each ends, and at which byte it lies.

    The last one, and those to go back to behind it; a batch writes no more than it has tokens, unless they are written `whole`.
    """
    n = 1 + g.context.n_rs_seq
    each = g.context.n_seq_max * states.nb[1]
    return [(slot, slot * each) for slot in range(n if whole else min(n, n_tokens))]


def write_state(g: GraphContext, value: Tensor, state: Tensor) -> None:
    """Copy `value`, which has as many elements, over the states of the batch's sequences."""
    n = value.ne[0] * value.ne[1] * value.ne[2] * value.ne[3]
    g.expand(g.cpy(value, g.view(state, (n,))))


def ssm_scan(g: GraphContext, states: Tensor, x: Tensor, *more: Tensor, n_kept: int = 1) -> Tensor:
    """Append a state-space scan: the outputs, and behind them the states of `n_kept` tokens, in one row (ggml_ssm_scan)."""
    ids = more[-1]
    size = states.ne[0] * states.ne[1] * states.ne[2] * ids.ne[0]
    n = x.ne[0] * x.ne[1] * x.ne[2] * x.ne[3] + n_kept * size
    return g.of("SSM_SCAN", (n,), states, x, *more, params=(n_kept,))


def mamba(g: GraphContext, rs: Rs, x: Tensor, il: int, *, dt_b_c_norm: bool = False) -> Tensor:
    """Append a layer of Mamba (build_mamba_layer). `dt_b_c_norm`: norms without weights apply, too (FalconMamba)."""
    kernel, inner, size = g.n("ssm.conv_kernel"), g.n("ssm.inner_size"), g.n("ssm.state_size")
    rank, seqs, n = g.n("ssm.time_step_rank"), g.n_seqs, g.n_seq_tokens
    conv_states, ssm_states = g.state(il, 0), g.state(il, 1)
    conv = g.reshape(read_state(g, rs, conv_states), kernel - 1, inner, seqs)
    x = g.reshape(x, x.ne[0], n, seqs)
    xz = linear(g, x, "ssm_in", il)
    x = g.view(xz, (inner, *xz.ne[1:3]), xz.nb[1:3])
    z = g.view(xz, (inner, *xz.ne[1:3]), xz.nb[1:3], inner * xz.nb[0])
    window = g.concat(conv, g.transpose(x), 0)
    last = g.view(window, (kernel - 1, inner, seqs), window.nb[1:3], n * window.nb[0])
    write_state(g, last, conv_states)
    x = g.silu(g.add(g.ssm_conv(window, g.need("ssm_conv1d.weight", il)), g.need("ssm_conv1d.bias", il)))
    dt, b, c = _dt_b_c(g, x, il, rank, size, dt_b_c_norm)
    dt = g.add(linear(g, dt, "ssm_dt", il, scale=False, bias=False), g.need("ssm_dt.bias", il))
    heads = g.reshape(x, 1, inner, n, seqs)
    a = g.need("ssm_a", il)

    def scan(states: Tensor, ids: Tensor) -> Tensor:
        return ssm_scan(g, g.reshape(states, size, 1, inner, states.ne[1]), heads, dt, a, b, c, ids)

    y = read_state(g, rs, ssm_states, scan)
    done = g.view(y, (size * inner * seqs,), (), heads.nb[3] * heads.ne[3])
    write_state(g, done, ssm_states)
    y = g.view(y, (inner, n, seqs), heads.nb[2:4])
    y = g.add(y, g.mul(x, g.need("ssm_d", il)))
    y = g.glu("swiglu", g.cont(z), y)
    x = linear(g, y, "ssm_out", il, bias=False)
    return g.reshape(x, x.ne[0], n * seqs)


def _dt_b_c(
    g: GraphContext, x: Tensor, il: int, rank: int, size: int, always: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Project the time steps and the two matrices of Mamba's scan, normed where the model has norms for all three."""
    t = linear(g, x, "ssm_x", il, scale=False, bias=False)
    n, seqs, element = g.n_seq_tokens, g.n_seqs, t.nb[0]
    dt = g.view(t, (rank, n, seqs), t.nb[1:3])
    strides = (size * element, t.nb[1], t.nb[2])
    b = g.view(t, (size, 1, n, seqs), strides, element * rank)
    c = g.view(t, (size, 1, n, seqs), strides, element * (rank + size))
    if always or all(g.has(f"ssm_{name}_norm.weight", il) for name in ("dt", "b", "c")):
        return norm(g, dt, "ssm_dt_norm", il), norm(g, b, "ssm_b_norm", il), norm(g, c, "ssm_c_norm", il)
    return g.cont(dt), b, c


def mamba2(g: GraphContext, rs: Rs, x: Tensor, il: int) -> Tensor:
    """Append a layer of Mamba 2 (build_mamba2_layer)."""
    kernel, inner, size = g.n("ssm.conv_kernel"), g.n("ssm.inner_size"), g.n("ssm.state_size")
    n_head, groups, seqs, n = g.n("ssm.time_step_rank"), g.n("ssm.group_count"), g.n_seqs, g.n_seq_tokens
    if not n_head or inner % n_head or not groups or inner % groups:
        raise Unbuildable(f"{inner} channels are no {n_head} heads in {groups} groups")
    head, width = inner // n_head, inner + 2 * groups * size
    conv_states, ssm_states = g.state(il, 0), g.state(il, 1)
    conv = g.reshape(read_state(g, rs, conv_states), kernel - 1, width, seqs)
    t = linear(g, x, "ssm_in", il, bias=False)
    t = g.reshape(t, t.ne[0], n, seqs)
    element = t.nb[0]
    z = g.view(t, (head, n_head, n, seqs), (head * element, t.nb[1], t.nb[2]))
    x = g.view(t, (width, n, seqs), t.nb[1:3], inner * element)
    dt = g.view(t, (n_head, n, seqs), t.nb[1:3], (2 * inner + 2 * groups * size) * element)
    x = _convolved(g, conv, x, conv_states, kernel, il)
    element = x.nb[0]
    heads = g.view(x, (head, n_head, n, seqs), (head * element, x.nb[1], x.nb[2]))
    strides = (size * element, x.nb[1], x.nb[2])
    b = g.view(x, (size, groups, n, seqs), strides, inner * element)
    c = g.view(x, (size, groups, n, seqs), strides, (inner + groups * size) * element)
    dt = g.add(g.cont(dt), g.need("ssm_dt.bias", il))
    a = g.need("ssm_a", il)

    def scan(states: Tensor, ids: Tensor) -> Tensor:
        rows = g.reshape(states, size, head, n_head, ssm_states.ne[1])
        return ssm_scan(g, rows, heads, dt, a, b, c, ids, n_kept=1 + g.context.n_rs_seq)

    y = read_state(g, rs, ssm_states, scan)
    _write_mamba2(g, y, heads, ssm_states, size * inner)
    strides = (heads.nb[1], n_head * heads.nb[1], n * n_head * heads.nb[1])
    y = g.view(y, (head, n_head, n, seqs), strides)
    y = g.add(y, g.mul(heads, g.need("ssm_d", il)))
    y = g.glu("swiglu", g.cont(z), y)
    if g.has("ssm_norm.weight", il):
        y = norm(g, g.reshape(y, inner // groups, groups, n, seqs), "ssm_norm", il)
    return linear(g, g.reshape(y, inner, n * seqs), "ssm_out", il, bias=False)


def _convolved(g: GraphContext, conv: Tensor, x: Tensor, states: Tensor, kernel: int, il: int) -> Tensor:
    """Append a short convolution over the channels, whose last columns are kept for the next batch."""
    width, seqs = x.ne[0], g.n_seqs
    window = g.concat(conv, g.transpose(x), 0)
    for slot, home in slots(g, states, g.n_seq_tokens):
        at = (g.n_seq_tokens - slot) * window.nb[0]
        last = g.view(window, (kernel - 1, width, seqs), window.nb[1:3], at)
        g.expand(g.cpy(last, g.view(states, ((kernel - 1) * width, seqs), (states.nb[1],), home)))
    return g.silu(g.add(g.ssm_conv(window, g.need("ssm_conv1d.weight", il)), g.need("ssm_conv1d.bias", il)))


def _write_mamba2(g: GraphContext, y: Tensor, heads: Tensor, states: Tensor, size: int) -> None:
    """Copy the states that a scan ends with, and those behind the tokens before that can be gone back to."""
    seqs, row = g.n_seqs, size * y.nb[0]
    written = len(slots(g, states, g.n_seq_tokens))
    at = heads.ne[0] * heads.ne[1] * heads.ne[2] * heads.ne[3] * heads.nb[0]
    done = g.view(y, (size, seqs, written), (row, row * seqs), at)
    homes = g.view(states, (size, seqs, written), (states.nb[1], g.context.n_seq_max * size * states.nb[0]))
    g.expand(g.cpy(done, homes))
