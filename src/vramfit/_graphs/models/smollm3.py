"""SmolLM 3: every fourth layer rotates nothing. Source: models/smollm3.cpp."""

from __future__ import annotations

from ..._llama.model import Model
from ..attention import attend, kv_input
from ..context import GraphContext
from ..decoder import finish
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, norm, output_rows, positions, qkv, select


def traits(_: Model, il: int) -> bool:
    """Whether the layer rotates."""
    return (il + 1) % 4 != 0


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = embeddings(g)
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        if traits(g.model, il):
            q, k = g.rope(q, pos), g.rope(k, pos)
        h, x = select(g, rows, il, attend(g, kv, q, k, v, il), x)
        x = g.add(h, x)
        x = g.end_layer(g.add(ffn(g, norm(g, x, "ffn_norm", il), il), x))
    finish(g, x)
