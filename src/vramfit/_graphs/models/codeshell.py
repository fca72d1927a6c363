"""CodeShell: GPT-2 with rotary positions. Source: models/codeshell.cpp."""

from __future__ import annotations

from ..context import GraphContext
from ..decoder import ungated


def build(g: GraphContext) -> None:
    """Append the graph."""
    ungated(g, "gelu")
