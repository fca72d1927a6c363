"""RWKV 6: mixes along tokens and along channels. Source: models/rwkv6.cpp."""

from __future__ import annotations

from functools import partial

from ..._ggml.graph import Tensor
from ..._llama.model import Model
from ..context import GraphContext
from ..parts import linear
from ..rwkv import mixed_in_channels, time_mix_6


def traits(model: Model, il: int) -> bool:
    """Whether a layer's result is halved."""
    every = model.hparams.get("rescale_every_n_layers", 0)
    return isinstance(every, int) and every > 0 and (il + 1) % every == 0


def build(g: GraphContext) -> None:
    """Append the graph."""
    mixed_in_channels(g, partial(time_mix_6, g), partial(_channels, g), g.n("rescale_every_n_layers"))


def _channels(g: GraphContext, x: Tensor, before: Tensor, il: int) -> Tensor:
    """A squared ReLU of each token and the one before it, with a gate."""
    change = g.sub(before, x)
    k, r = (g.add(g.mul(change, g.need(f"channel_mix_lerp_{name}.weight", il)), x) for name in "kr")
    r, k = (
        linear(g, t, f"channel_mix_{name}", il, scale=False, bias=False)
        for t, name in ((r, "receptance"), (k, "key"))
    )
    value = linear(g, g.sqr(g.relu(k)), "channel_mix_value", il, scale=False, bias=False)
    return g.mul(g.sigmoid(r), value)
