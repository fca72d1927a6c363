"""CodeShell: GPT-2 with rotary positions. Source: models/codeshell.cpp."""

from __future__ import annotations

from ..attention import kv_input
from ..context import GraphContext
from ..decoder import ungated
from ..parts import check_heads, embeddings, positions


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    ungated(g, embeddings(g), positions(g), kv_input(g), "gelu")
