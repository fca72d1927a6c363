"""Append what the Granites share: attention, the feed-forward network between scaled residuals, scaled logits.

Source: models/granite.cpp, granite-hybrid.cpp, granite-swa.cpp.
"""

from __future__ import annotations

from .._ggml.graph import Tensor
from .attention import Kv, Windowed, attend
from .context import GraphContext
from .feed_forward import ffn, moe
from .parts import logits, norm, qkv, rope_factors

__all__ = ["attention", "feed_forward", "finish"]


def attention(
    g: GraphContext,
    kv: Kv | Windowed,
    x: Tensor,
    pos: Tensor,
    il: int,
    *,
    rotates: bool,
    sinks: Tensor | None = None,
) -> Tensor:
    """Append the attention of one layer; some have no positions."""
    q, k, v = qkv(g, x, il, n_head=g.n_head(il), n_head_kv=g.n_head_kv(il))
    if rotates:
        factors = rope_factors(g, il)
        q, k = g.rope(q, pos, factors), g.rope(k, pos, factors)
    return attend(g, kv, q, k, v, il, sinks=sinks)


def feed_forward(g: GraphContext, h: Tensor, x: Tensor, il: int, *, fused: bool = False) -> Tensor:
    """Append the rest of a layer: add `h` to the residual `x`, then a network. `fused`: gates lie beside their up matrices."""
    scales = g.hp("residual_scale") != 0
    x = g.add(g.scale(h) if scales else h, x)
    h = norm(g, x, "ffn_norm", il)
    if g.has("ffn_gate_inp.weight", il):
        y = moe(g, h, il, gate_up="ffn_gate_up_exps" if fused else None)
        if g.n("expert_shared_feed_forward_length") > 0:
            y = g.add(y, _shared(g, h, il, fused))
    else:
        y = ffn(g, h, il)
    return g.end_layer(g.add(g.scale(y) if scales else y, x))


def _shared(g: GraphContext, x: Tensor, il: int, fused: bool) -> Tensor:
    up, down = "ffn_up_shexp", "ffn_down_shexp"
    if fused:
        return ffn(g, x, il, act="swiglu", parallel=False, up=up, gate=None, down=down, biases=False)
    return ffn(g, x, il, up=up, gate="ffn_gate_shexp", down=down, biases=False)


def finish(g: GraphContext, x: Tensor, *, scales: bool = True) -> None:
    """Append the last norm and the logits, scaled."""
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    x = logits(g, x, bias=False)
    g.expand(g.output(g.scale(x) if scales else x, "result_output"))
