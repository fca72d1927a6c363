"""Jais 2: a plain decoder with squared units. Source: models/jais2.cpp."""

from __future__ import annotations

from ..context import GraphContext
from ..decoder import ungated


def build(g: GraphContext) -> None:
    """Append the graph."""
    ungated(g, "relu_sqr")
