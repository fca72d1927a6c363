"""Granite with windows and attention sinks; some layers have no positions. Source: models/granite-swa.cpp."""

from __future__ import annotations

from collections.abc import Hashable

from ..._llama.model import Model
from ..attention import windowed_input
from ..context import GraphContext
from ..deepstack import add_stack, mapped, stacked_embeddings
from ..granite import attention, feed_forward, finish
from ..parts import check_heads, norm, output_rows, positions, select


def traits(model: Model, il: int) -> Hashable:
    """Whether a layer has positions, and which packed layer of a projector is added."""
    return _rotates(model, il), mapped(model, il)


def _rotates(model: Model, il: int) -> bool:
    pattern = model.hparams.get("attention.rope_pattern")
    return not isinstance(pattern, (list, tuple)) or il >= len(pattern) or bool(pattern[il])


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x, raw = stacked_embeddings(g)
    pos, kv, rows = positions(g), windowed_input(g), output_rows(g)
    for il in g.layers:
        x = add_stack(g, x, raw, il)
        h, sinks = norm(g, x, "attn_norm", il), g.w("attn_sinks.weight", il)
        h = attention(g, kv, h, pos, il, rotates=_rotates(g.model, il), sinks=sinks)
        h, x = select(g, rows, il, h, x)
        x = feed_forward(g, h, x, il, fused=True)
    finish(g, x)
