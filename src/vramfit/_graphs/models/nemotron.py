"""Nemotron 4: norms with biases, squared ReLUs without a gate. Source: models/nemotron.cpp."""

from __future__ import annotations

from ..attention import kv_input
from ..context import GraphContext
from ..decoder import ungated
from ..parts import check_heads, embeddings, positions


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    ungated(g, embeddings(g), positions(g), kv_input(g), "relu_sqr")
