"""Append what PLaMo 2 and 3 share: one matrix for queries, keys and values, norms before and behind each part.

Source: models/plamo2.cpp, models/plamo3.cpp.
"""

from __future__ import annotations

from .._ggml.graph import Tensor
from .attention import Kv, Windowed, attend
from .context import GraphContext
from .feed_forward import ffn
from .parts import linear, logits, norm

__all__ = ["attention", "feed_forward", "finish"]


def attention(g: GraphContext, kv: Kv | Windowed, x: Tensor, pos: Tensor, il: int) -> Tensor:
    """Append attention whose queries and keys are normed."""
    t = linear(g, x, "attn_qkv", il, scale=False, bias=False)
    at, found = 0, []
    for head, n in (
        (g.head_k(), g.n_head(il)),
        (g.head_k(), g.n_head_kv(il)),
        (g.head_v(), g.n_head_kv(il)),
    ):
        found.append(g.view(t, (head, n, g.n_tokens), (head * t.nb[0], t.nb[1]), at * t.nb[0]))
        at += head * n
    q, k = norm(g, found[0], "attn_q_norm", il), norm(g, found[1], "attn_k_norm", il)
    return attend(g, kv, g.rope(q, pos), g.rope(k, pos), found[2], il, bias=False)


def feed_forward(g: GraphContext, h: Tensor, x: Tensor, il: int) -> Tensor:
    """Append the rest of a layer: add `h` to the residual `x`, then a network whose gate lies beside its up matrix."""
    x = g.add(norm(g, h, "post_attention_norm", il), x)
    h = norm(g, x, "ffn_norm", il)
    h = ffn(g, h, il, act="swiglu", parallel=False, gate=None, biases=False)
    return g.end_layer(g.add(norm(g, h, "post_ffw_norm", il), x))


def finish(g: GraphContext, x: Tensor) -> None:
    """Append the last norm and the logits."""
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(logits(g, x, bias=False), "result_output"))
