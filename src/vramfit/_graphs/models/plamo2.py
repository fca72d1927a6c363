"""PLaMo 2: Mamba with heads, attention in some layers. Source: models/plamo2.cpp."""

from __future__ import annotations

from ..._ggml.graph import Tensor
from ..._ggml.ops import Unbuildable
from ..._llama.model import Model
from ..attention import kv_input
from ..context import GraphContext
from ..parts import embeddings, linear, norm, output_rows, positions, select
from ..plamo import attention, feed_forward, finish
from ..recurrent import Rs, before_recurrent, read_state, rs_input, ssm_scan, write_state


def traits(model: Model, il: int) -> int:
    """Whether a layer's nodes mingle with those of the next one."""
    return before_recurrent(model, il)


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = embeddings(g)
    pos, rs, kv, rows = positions(g), rs_input(g), kv_input(g), output_rows(g)
    for il in g.layers:
        h = norm(g, x, "attn_norm", il)
        h = _mamba(g, rs, h, il) if g.is_recurrent(il) else attention(g, kv, h, pos, il)
        h, x = select(g, rows, il, h, x)
        x = feed_forward(g, h, x, il)
    finish(g, x)


def _mamba(g: GraphContext, rs: Rs, x: Tensor, il: int) -> Tensor:
    inner, size, n_head = g.n("ssm.inner_size"), g.n("ssm.state_size"), g.n("ssm.time_step_rank")
    n, seqs, ssm_states = g.n_seq_tokens, g.n_seqs, g.state(il, 1)
    if not n_head or inner % n_head or g.n("ssm.group_count"):
        raise Unbuildable(f"{inner} channels in {n_head} heads and {g.n('ssm.group_count')} groups")
    head = inner // n_head
    x, z = _convolved(g, rs, x, il, head, n_head)
    dt, b, c = _dt_b_c(g, x, il, size)
    a = g.reshape(g.need("ssm_a", il), 1, n_head)
    strides = (head * x.nb[0], inner * x.nb[0], inner * n * x.nb[0])
    heads = g.view(x, (head, n_head, n, seqs), strides)
    b, c = (g.view(t, (size, 1, n, seqs), (size * t.nb[0], t.nb[1], t.nb[2])) for t in (b, c))

    def scan(states: Tensor, ids: Tensor) -> Tensor:
        return ssm_scan(g, g.reshape(states, size, head, n_head, ssm_states.ne[1]), heads, dt, a, b, c, ids)

    y = read_state(g, rs, ssm_states, scan)
    write_state(g, g.view(y, (inner * size * seqs,), (), inner * n * seqs * y.nb[0]), ssm_states)
    y = g.view(y, (head, n_head, n, seqs), strides)
    y = g.add(y, g.mul(heads, g.reshape(g.need("ssm_d", il), 1, n_head)))
    y = g.glu("swiglu", g.cont(z), y)
    y = linear(g, g.view(y, (inner, n, seqs), y.nb[2:4]), "ssm_out", il, scale=False, bias=False)
    return g.reshape(y, y.ne[0], n * seqs)


def _convolved(g: GraphContext, rs: Rs, x: Tensor, il: int, head: int, n_head: int) -> tuple[Tensor, Tensor]:
    """The channels behind a short convolution, and the gate, which lie side by side in each head."""
    kept, n, seqs, states = g.n("ssm.conv_kernel") - 1, g.n_seq_tokens, g.n_seqs, g.state(il, 0)
    past = g.reshape(read_state(g, rs, states), kept, head * n_head, seqs)
    zx = linear(g, g.reshape(x, x.ne[0], n, seqs), "ssm_in", il, scale=False, bias=False)
    zx = g.cont(g.permute(zx, 0, 2, 1, 3), 2 * head, n_head, n, seqs)
    z, x = (g.view(zx, (head, n_head, n, seqs), zx.nb[1:], i * head * zx.nb[0]) for i in (0, 1))
    window = g.concat(past, g.transpose(g.cont(x, head * n_head, n, seqs)), 0)
    write_state(g, g.view(window, (kept, head * n_head, seqs), window.nb[1:3], n * window.nb[0]), states)
    return g.silu(g.ssm_conv(window, g.need("ssm_conv1d.weight", il))), z


def _dt_b_c(g: GraphContext, x: Tensor, il: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Time steps and the two matrices of the scan, normed."""
    t = linear(g, x, "ssm_x", il, scale=False, bias=False)
    found, at = [], 0
    for name, width in (("b", size), ("c", size), ("dt", max(64, g.n_embd // 16))):
        part = g.view(t, (width, g.n_seq_tokens, g.n_seqs), t.nb[1:3], at * t.nb[0])
        found.append(norm(g, part, f"ssm_{name}_norm", il))
        at += width
    b, c, dt = found
    dt = linear(g, dt, "ssm_dt", il, scale=False, bias=False)
    return g.add(dt, g.need("ssm_dt.bias", il)), b, c
