"""Nemotron 4: norms with biases, squared ReLUs without a gate. Source: models/nemotron.cpp."""

from __future__ import annotations

from ..context import GraphContext
from ..decoder import ungated


def build(g: GraphContext) -> None:
    """Append the graph."""
    ungated(g, "relu_sqr", rotated=False)
