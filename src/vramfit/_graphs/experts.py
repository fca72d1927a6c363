"""Append mixtures of experts as a header describes them, and the expert that every token goes through.

In: a `GraphContext`, the input of a layer's feed-forward part. Out: its result, [n_embd, n_tokens].
Source: the calls of `build_moe_ffn` in models/glm4-moe.cpp and its kin; the numbers of `expert_gating_func` are those of
`llama_expert_gating_func_type` (llama-hparams.h:16).
"""

from __future__ import annotations

from typing import Final

from .._ggml.graph import Tensor
from .context import GraphContext
from .feed_forward import ffn, moe

__all__ = ["beside_shared", "gating", "routed", "shared"]

_GATINGS: Final = ("", "softmax", "sigmoid", "softmax_weight", "sqrt_softplus")


def gating(g: GraphContext, default: str = "") -> str:
    """Return how probabilities are made of a router's scores; "" where nobody says, which the engine stops at."""
    number = g.n("expert_gating_func")
    return (_GATINGS[number] if 0 <= number < len(_GATINGS) else "?") or default


def routed(
    g: GraphContext,
    x: Tensor,
    il: int,
    how: str,
    *,
    bias: str | None = "exp_probs_b.bias",
    gate_up: str | None = None,
    scales: bool = False,
    clamp: str = "",
) -> Tensor:
    """Append the mixture of experts of a header that says whether weights are divided by their sum and by what they are scaled."""
    return moe(
        g,
        x,
        il,
        gating=how,
        norm=bool(g.hp("expert_weights_norm")),
        scale=g.hp("expert_weights_scale"),
        bias=bias,
        gate_up=gate_up,
        scales=scales,
        clamp=clamp,
    )


def shared(g: GraphContext, x: Tensor, il: int, *, scales: bool = False, clamp: str = "") -> Tensor:
    """Append the expert that every token goes through, beside the chosen ones."""
    names = "ffn_up_shexp", "ffn_gate_shexp", "ffn_down_shexp"
    up, gate, down = names
    return ffn(g, x, il, up=up, gate=gate, down=down, biases=False, scales=scales, clamp=clamp)


def beside_shared(g: GraphContext, x: Tensor, il: int, default: str = "") -> Tensor:
    """Append the chosen experts and the one beside them where the layer has a router; elsewhere a dense network.

    `default` is how probabilities are made where the header does not say (see `gating`).
    """
    if not g.has("ffn_gate_inp.weight", il):
        return ffn(g, x, il, biases=False)
    return g.add(routed(g, x, il, gating(g, default)), shared(g, x, il))
