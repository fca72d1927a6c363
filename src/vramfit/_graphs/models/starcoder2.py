"""StarCoder 2: biases everywhere, and no gate. Source: models/starcoder2.cpp."""

from __future__ import annotations

from ..context import GraphContext
from ..decoder import ungated


def build(g: GraphContext) -> None:
    """Append the graph."""
    ungated(g, "gelu")
