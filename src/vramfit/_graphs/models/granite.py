"""Granite: dense or a mixture, everything scaled; some get deep layers of a projector.

Source: models/granite.cpp, models/granite-moe.cpp.
"""

from __future__ import annotations

from ..._llama.model import Model
from ..attention import kv_input
from ..context import GraphContext
from ..deepstack import add_stack, mapped, stacked_embeddings
from ..granite import attention, feed_forward, finish
from ..parts import check_heads, embeddings, norm, output_rows, positions, select


def traits(model: Model, il: int) -> int:
    """Which packed layer of a projector is added."""
    return mapped(model, il) if model.architecture == "granite" else -1


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    has_options = g.model.architecture == "granite"  # the mixture's header has neither of the two
    x, raw = stacked_embeddings(g) if has_options else (embeddings(g, scale=True), None)
    rotates = not has_options or bool(g.hp("rope.scaling.finetuned", 1))
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        x = x if raw is None else add_stack(g, x, raw, il)
        h = attention(g, kv, norm(g, x, "attn_norm", il), pos, il, rotates=rotates)
        h, x = select(g, rows, il, h, x)
        x = feed_forward(g, h, x, il)
    finish(g, x)
