"""RWKV 7: mixes along tokens and along channels; later layers add the first one's values. Source: models/rwkv7.cpp."""

from __future__ import annotations

from functools import partial

from ..._ggml.graph import Tensor
from ..context import GraphContext
from ..parts import linear
from ..rwkv import mixed_in_channels, time_mix_7


def build(g: GraphContext) -> None:
    """Append the graph."""
    mixed_in_channels(g, partial(time_mix_7, g, first_value=[]), partial(_channels, g))


def _channels(g: GraphContext, x: Tensor, before: Tensor, il: int) -> Tensor:
    """A squared ReLU of each token and the one before it."""
    k = g.add(g.mul(g.sub(before, x), g.need("channel_mix_lerp_k.weight", il)), x)
    k = linear(g, k, "channel_mix_key", il, scale=False, bias=False)
    return linear(g, g.sqr(g.relu(k)), "channel_mix_value", il, scale=False, bias=False)
