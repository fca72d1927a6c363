"""Qwen 3 VL with experts. Source: models/qwen3vlmoe.cpp."""

from __future__ import annotations

from ..context import GraphContext
from ..decoder import finish
from ..feed_forward import moe
from ..qwen_vl import decoder, takes_deeper

traits = takes_deeper


def build(g: GraphContext) -> None:
    """Append the graph."""
    finish(g, decoder(g, lambda x, il: moe(g, x, il)))
