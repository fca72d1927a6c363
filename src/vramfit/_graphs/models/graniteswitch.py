"""Granite with adapters that a token switches on; a last layer without weights remembers which.

Source: models/granite-switch.cpp.
"""

from __future__ import annotations

from ..._ggml.graph import Tensor
from ..._ggml.ops import F32, I32
from ..._llama.model import Home, Model
from ..attention import Kv, attend, kv_input
from ..context import GraphContext
from ..granite import finish
from ..parts import check_heads, norm, output_rows, positions, rope_factors, wide


def traits(model: Model, il: int) -> bool:
    """Whether a layer is the last one with weights: the very last is the router."""
    return il == len(model.layers) - 2


def build(g: GraphContext) -> None:
    """Append the graph. The router runs first, and counts as the last layer, without nodes of its own."""
    check_heads(g)
    x = g.get_rows(
        g.at("token_embd.weight", Home.INPUT) or g.need("token_embd.weight"), _input(g, "sub_tokens")
    )
    x = g.scale(x) if g.hp("embedding_scale") else x
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    ids = _adapters(g, kv)
    for il in g.layers:
        if g.is_last(il):
            break
        h = _attention(g, kv, norm(g, x, "attn_norm", il), pos, ids, il)
        if traits(g.model, il):
            h, x = g.get_rows(h, rows), g.get_rows(x, rows)
            ids = g.get_rows(g.reshape(ids, 1, g.n_tokens), rows)
            ids = g.reshape(ids, g.n_outputs)
        x = _feed_forward(g, h, x, ids, il)
    g.end_layer(x)
    finish(g, x)


def _input(g: GraphContext, name: str) -> Tensor:
    return g.input(name, I32, g.n_tokens)


def _adapters(g: GraphContext, kv: Kv) -> Tensor:
    """The adapter of each token: attention of a single head finds the last token that switches."""
    router, n = g.known.trunk[-1], g.n_tokens
    q, k, v = (
        g.pad(g.reshape(g.input(f"router_{name}", F32, n), 1, 1, n), g.head_v() - 1)
        for name in ("q", "ksig", "vval")
    )
    found = attend(g, kv, q, k, v, router, out=None)
    found = g.reshape(g.cont(g.view(found, (1, n), found.nb[1:2])), n)
    return g.cast(g.unary("round", g.clamp(found)), I32)


def _delta(g: GraphContext, x: Tensor, name: str, ids: Tensor, il: int) -> Tensor:
    """What its adapter adds to each token."""
    n = x.ne[1]
    ids = g.reshape(ids, 1, n)
    low = g.mul_mat_id(g.need(f"{name}.lora_a", il), g.reshape(x, x.ne[0], 1, n), ids)
    t = g.mul_mat_id(g.need(f"{name}.lora_b", il), low, ids)
    return g.reshape(t, t.ne[0], n)


def _product(g: GraphContext, x: Tensor, name: str, ids: Tensor, il: int) -> Tensor:
    return g.add(g.mul_mat(g.need(f"{name}.weight", il), x), _delta(g, x, name, ids, il))


def _attention(g: GraphContext, kv: Kv, x: Tensor, pos: Tensor, ids: Tensor, il: int) -> Tensor:
    head, at, found = g.head_v(), 0, []
    both = g.mul_mat(g.need("attn_qkv.weight", il), x)
    for name, n in (("attn_q", g.n_head(il)), ("attn_k", g.n_head_kv(il)), ("attn_v", g.n_head_kv(il))):
        t = g.cont(g.view(both, (head * n, g.n_tokens), both.nb[1:2], at * both.nb[0]))
        found.append(wide(g, g.add(t, _delta(g, x, name, ids, il)), head, n))
        at += head * n
    q, k, v = found
    if g.hp("rope.scaling.finetuned", 1):
        factors = rope_factors(g, il)
        q, k = g.rope(q, pos, factors), g.rope(k, pos, factors)
    return _product(g, attend(g, kv, q, k, v, il, out=None), "attn_output", ids, il)


def _feed_forward(g: GraphContext, h: Tensor, x: Tensor, ids: Tensor, il: int) -> Tensor:
    scales = g.hp("residual_scale") != 0
    x = g.add(g.scale(h) if scales else h, x)
    h = norm(g, x, "ffn_norm", il)
    gate, up = (_product(g, h, f"ffn_{name}", ids, il) for name in ("gate", "up"))
    y = _product(g, g.mul(g.silu(gate), up), "ffn_down", ids, il)
    return g.end_layer(g.add(g.scale(y) if scales else y, x))
