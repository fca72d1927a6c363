"""ARWKV 7: a model with RWKV 7's mix of tokens for attention. Source: models/arwkv7.cpp."""

from __future__ import annotations

from functools import partial

from ..context import GraphContext
from ..rwkv import mixed_in_networks, time_mix_7


def build(g: GraphContext) -> None:
    """Append the graph."""
    mixed_in_networks(g, partial(time_mix_7, g, first_value=[]))
