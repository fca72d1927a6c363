"""Qwen 3 VL with experts. Source: models/qwen3vlmoe.cpp."""

from __future__ import annotations

from collections.abc import Hashable

from ..._llama.model import Model
from ..attention import attend, kv_input
from ..context import GraphContext
from ..decoder import finish, normed_rope
from ..feed_forward import moe
from ..parts import check_heads, deeper, embeddings, norm, output_rows, positions, qkv, select


def traits(model: Model, il: int) -> Hashable:
    """Whether the layer ends with embeddings of a deeper layer of the vision model."""
    n = model.hparams.get("n_deepstack_layers", 0)
    return isinstance(n, int) and il < n


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    deep = g.n("n_deepstack_layers")
    x = first = embeddings(g, deepstack=deep)
    pos, kv, rows = positions(g, 4), kv_input(g), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        q, k = normed_rope(g, q, k, pos, il)
        h, x = select(g, rows, il, attend(g, kv, q, k, v, il), x)
        x = g.add(h, x)
        x = g.add(moe(g, norm(g, x, "ffn_norm", il), il), x)
        x = g.end_layer(deeper(g, x, first, il + 1) if il < deep else x)
    finish(g, x)
