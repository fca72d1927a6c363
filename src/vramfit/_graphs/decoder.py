"""Append what many decoders share beside their parts: normed heads, windows where a model has some, the end.

In: a `GraphContext` and tensors. Out: the tensor that a part ends with. `Unbuildable` is raised where the engine stops.
"""

from __future__ import annotations

from .._ggml.graph import Tensor
from .attention import Kv, Windowed, attend, kv_input, windowed_input
from .context import GraphContext
from .feed_forward import ffn
from .parts import flat_qkv, logits, norm, output_rows, qkv, select, wide

__all__ = [
    "any_input",
    "finish",
    "flat_heads",
    "has_sections",
    "head_gate",
    "norm_if",
    "normed_rope",
    "soft_capped",
    "ungated",
]


def has_sections(g: GraphContext) -> bool:
    """Tell whether a position has several parts: time, height, width (use_mrope, llama-hparams.cpp)."""
    return all(g.n("rope.dimension_sections", 0, i) > 0 for i in (0, 1))


def any_input(g: GraphContext) -> Kv | Windowed:
    """Append the inputs of attention, with windows where a layer of the model has one."""
    return windowed_input(g) if any(g.is_swa(il) for il in g.known.trunk) else kv_input(g)


def norm_if(g: GraphContext, x: Tensor, name: str, il: int, kind: str = "rms_norm") -> Tensor:
    """Append a norm where the layer has its weight."""
    return norm(g, x, name, il, kind) if g.has(f"{name}.weight", il) else x


def normed_rope(
    g: GraphContext, q: Tensor, k: Tensor, pos: Tensor, il: int, factors: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Norm queries and keys, then rotate them."""
    q, k = norm(g, q, "attn_q_norm", il), norm(g, k, "attn_k_norm", il)
    return g.rope(q, pos, factors), g.rope(k, pos, factors)


def flat_heads(g: GraphContext, x: Tensor, il: int) -> tuple[Tensor, Tensor, Tensor]:
    """Project queries, keys and values, and norm queries and keys before they are cut into heads."""
    head, n, n_kv = g.head_v(), g.n_head(), g.n_head_kv()
    q, k, v = flat_qkv(g, x, il, (head * n, head * n_kv, head * n_kv))
    q, k = norm(g, q, "attn_q_norm", il), norm(g, k, "attn_k_norm", il)
    return wide(g, q, head, n), wide(g, k, head, n_kv), wide(g, v, head, n_kv)


def head_gate(g: GraphContext, x: Tensor, gate: Tensor, head: int) -> Tensor:
    """Multiply the result of attention by one number for each head and token."""
    n_head, n_tokens = x.ne[0] // head, x.ne[1]
    x = g.mul(g.reshape(x, head, n_head, n_tokens), g.reshape(gate, 1, n_head, n_tokens))
    return g.reshape(x, head * n_head, n_tokens)


def soft_capped(g: GraphContext, x: Tensor, default: float = 30) -> Tensor:
    """Cap the logits, unless the header, or `default` where it says nothing, is 0 (llama-hparams.h:136)."""
    return g.scale(g.tanh(g.scale(x))) if g.hp("final_logit_softcapping", default) else x


def finish(
    g: GraphContext, x: Tensor, kind: str = "rms_norm", *, bias: bool = False, scale: bool = True
) -> None:
    """Append the end of a graph: the last norm, then the logits. `bias`, `scale`: whether they are applied where there are some."""
    x = g.output(norm(g, x, "output_norm", kind=kind), "result_norm")
    g.expand(g.output(logits(g, x, bias=bias, scale=scale), "result_output"))


def ungated(g: GraphContext, x: Tensor, pos: Tensor | None, kv: Kv, act: str) -> None:
    """Append the layers of GPT-2 and its heirs, and the end: norms that centre, and networks without a gate.

    Queries and keys are rotated where there are positions (`pos`). `act` is the networks' activation.
    """
    rows = output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il, "norm"), il)
        if pos is not None:
            q, k = g.rope(q, pos), g.rope(k, pos)
        h, x = select(g, rows, il, attend(g, kv, q, k, v, il), x)
        x = g.add(h, x)
        h = ffn(g, norm(g, x, "ffn_norm", il, "norm"), il, act=act, gate=None)
        x = g.end_layer(g.add(h, x))
    finish(g, x, "norm")
