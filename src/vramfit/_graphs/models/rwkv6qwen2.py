"""QRWKV 6: Qwen 2 with RWKV 6's mix of tokens for attention. Source: models/rwkv6qwen2.cpp."""

from __future__ import annotations

from functools import partial

from ..context import GraphContext
from ..rwkv import mixed_in_networks, time_mix_6


def build(g: GraphContext) -> None:
    """Append the graph."""
    mixed_in_networks(g, partial(time_mix_6, g))
