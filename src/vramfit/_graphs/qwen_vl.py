"""Append the layers of Qwen 3 VL, dense or with experts: the first ones take in embeddings of deeper levels of the vision model.

Source: models/qwen3vl.cpp, models/qwen3vlmoe.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from .._ggml.graph import Tensor
from .._llama.model import Model
from .attention import attend, kv_input
from .context import GraphContext
from .decoder import normed_rope
from .parts import check_heads, deeper, embeddings, norm, output_rows, positions, qkv, select

__all__ = ["decoder", "takes_deeper"]


def takes_deeper(model: Model, il: int) -> Hashable:
    """Tell whether the layer ends by adding embeddings of a deeper level of the vision model."""
    n = model.hparams.get("n_deepstack_layers", 0)
    return isinstance(n, int) and il < n


def decoder(g: GraphContext, network: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Append all layers, up to the last norm; `network` appends the feed-forward part of a layer."""
    check_heads(g)
    deep = g.n("n_deepstack_layers")
    x = first = embeddings(g, deepstack=deep)
    pos, kv, rows = positions(g, 4), kv_input(g), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        q, k = normed_rope(g, q, k, pos, il)
        h, x = select(g, rows, il, attend(g, kv, q, k, v, il), x)
        x = g.add(h, x)
        x = g.steered(g.add(network(norm(g, x, "ffn_norm", il), il), x))
        x = g.end_layer(deeper(g, x, first, il + 1) if il < deep else x, steers=False)
    return x
