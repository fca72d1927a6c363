"""Append hyper connections: several residual streams, which each part of a layer reads one mix of, and writes back to.

In: a `GraphContext`, the streams [n_embd, streams, n_tokens]. Out: the mix that a part reads, the streams behind it.
Source: models/hy-v4.cpp, models/deepseek4.cpp.
"""

from __future__ import annotations

from .._ggml.graph import Tensor
from .._ggml.ops import F32, Unbuildable
from .context import GraphContext

__all__ = [
    "chosen_rows",
    "gate",
    "head",
    "joined",
    "mean",
    "mixes",
    "n_streams",
    "read",
    "row",
    "spread",
    "stream",
    "weighed",
    "write",
]


def n_streams(g: GraphContext) -> int:
    """Count the residual streams."""
    n = g.n("hyper_connection.count")
    if n < 1:
        raise Unbuildable("no residual streams")
    return n


def spread(g: GraphContext, x: Tensor) -> Tensor:
    """Copy the embeddings into every stream."""
    return g.repeat(g.reshape(x, g.n_embd, 1, g.n_tokens), g.n_embd, n_streams(g), g.n_tokens)


def chosen_rows(g: GraphContext, x: Tensor, rows: Tensor) -> Tensor:
    """Keep the streams of the tokens that have an output."""
    n_embd, n, n_tokens = x.ne[:3]
    return g.reshape(g.get_rows(g.reshape(x, n_embd * n, n_tokens), rows), n_embd, n, g.n_outputs)


def mixes(g: GraphContext, x: Tensor, name: str, il: int | None = None) -> Tensor:
    """Multiply all streams of a token, normed together: what the gates of a part are made of."""
    flat = g.rms_norm(g.reshape(x, x.ne[0] * x.ne[1], x.ne[2]))
    return g.mul_mat(g.need(f"{name}_fn.weight", il), flat)


def gate(g: GraphContext, t: Tensor, name: str, il: int, which: int, n: int) -> Tensor:
    """Make the `which`th gate out of `mixes`, [n, n_tokens]: scaled, shifted, between 0 and 1."""
    at = which * n_streams(g)
    scale, base = g.need(f"{name}_scale.weight", il), g.need(f"{name}_base.weight", il)
    x = g.view(t, (n, t.ne[1]), t.nb[1:2], at * t.nb[0])
    x = g.mul(x, g.view(scale, (1,), (), which * scale.nb[0]))
    return g.add(x, g.view(base, (n,), (), at * base.nb[0]))


def stream(g: GraphContext, x: Tensor, i: int) -> Tensor:
    """View one stream: [n_embd, n_tokens]."""
    return g.view(x, (x.ne[0], x.ne[2]), x.nb[2:3], i * x.nb[1])


def row(g: GraphContext, t: Tensor, i: int) -> Tensor:
    """View one number for each token of a gate: [1, n_tokens]."""
    return g.view(t, (1, t.ne[1]), t.nb[1:2], i * t.nb[0])


def weighed(g: GraphContext, x: Tensor, weights: Tensor) -> Tensor:
    """Add up the streams, each times its weight, one by one."""
    total = None
    for i in range(x.ne[1]):
        part = g.mul(stream(g, x, i), row(g, weights, i))
        total = part if total is None else g.add(total, part)
    if total is None:
        raise Unbuildable("no residual streams")
    return total


def joined(g: GraphContext, parts: list[Tensor]) -> Tensor:
    """Put streams side by side."""
    whole = None
    for part in parts:
        x = g.reshape(part, part.ne[0], 1, part.ne[1])
        whole = x if whole is None else g.concat(whole, x, 1)
    if whole is None:
        raise Unbuildable("no residual streams")
    return whole


# --- with a matrix between the streams (DeepSeek V4)


def read(g: GraphContext, x: Tensor, name: str, il: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Mix the streams into what a part of a layer reads; return also how much each takes of its result, and of each other."""
    n, t = n_streams(g), mixes(g, x, name, il)
    if n != 4:
        raise Unbuildable(f"{n} residual streams where the engine wants 4")
    pre = g.scale(g.sigmoid(gate(g, t, name, il, 0, n)))
    post = g.scale(g.sigmoid(gate(g, t, name, il, 1, n)))
    if g.fuses("dsv4_hc_comb"):
        scale, base = g.need(f"{name}_scale.weight", il), g.need(f"{name}_base.weight", il)
        between = g.fused(g.of("DSV4_HC_COMB", (n, n, t.ne[1]), t, scale, base), il, "dsv4_hc_comb")
    else:
        between = _balanced(g, g.reshape(gate(g, t, name, il, 2, n * n), n, n, t.ne[1]))
    return _mix(g, x, pre, il), (post, between)


def _mix(g: GraphContext, x: Tensor, weights: Tensor, il: int) -> Tensor:
    if not g.fuses("dsv4_hc_pre"):
        return weighed(g, x, weights)
    return g.fused(g.of("DSV4_HC_PRE", (x.ne[0], x.ne[2]), x, weights), il, "dsv4_hc_pre")


def _balanced(g: GraphContext, t: Tensor) -> Tensor:
    """Divide rows and columns of a matrix in turns, until each sums up to nearly 1."""
    t, eps = g.soft_max(t), g.fill(g.tensor(F32, 1))
    t = g.add(t, eps)
    for turn in range(g.n("hyper_connection.sinkhorn_iterations") or 1):
        if turn:
            t = g.div(t, g.add(g.sum_rows(t), eps))
        columns = g.add(g.sum_rows(g.cont(g.permute(t, 1, 0, 2, 3))), eps)
        t = g.div(t, g.permute(columns, 1, 0, 2, 3))
    return t


def write(g: GraphContext, h: Tensor, x: Tensor, gates: tuple[Tensor, Tensor], il: int) -> Tensor:
    """Mix the streams with each other, and with what a part of a layer made."""
    post, between = gates
    n, n_tokens = x.ne[1], h.ne[1]
    if g.fuses("dsv4_hc_post"):
        y = g.of("DSV4_HC_POST", (h.ne[0], n, n_tokens), h, x, post, between)
        return g.fused(y, il, "dsv4_hc_post")
    made = []
    for to in range(n):
        y = g.mul(h, row(g, post, to))
        for i in range(n):
            at = to * between.nb[0] + i * between.nb[1]
            y = g.add(y, g.mul(stream(g, x, i), g.view(between, (1, n_tokens), between.nb[2:3], at)))
        made.append(y)
    return joined(g, made)


def head(g: GraphContext, x: Tensor) -> Tensor:
    """Make one stream of all, behind the last layer."""
    t = g.mul(mixes(g, x, "output_hc"), g.need("output_hc_scale.weight"))
    return weighed(g, x, g.scale(g.sigmoid(g.add(t, g.need("output_hc_base.weight")))))


def mean(g: GraphContext, x: Tensor) -> Tensor:
    """Make one stream of all: their mean."""
    total = stream(g, x, 0)
    for i in range(1, x.ne[1]):
        total = g.add(total, stream(g, x, i))
    return g.scale(total)
