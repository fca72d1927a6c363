"""GPT-2 and StarCoder: learned positions, one matrix for Q, K and V. Source: models/gpt2.cpp, models/starcoder.cpp."""

from __future__ import annotations

from ..attention import kv_input
from ..context import GraphContext
from ..decoder import ungated
from ..parts import check_heads, embeddings, positions


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    x, pos, kv = embeddings(g), positions(g), kv_input(g)
    ungated(g, g.add(x, g.get_rows(g.need("position_embd.weight"), pos)), None, kv, "gelu")
