"""ModernBERT: an encoder with windows in two layers of three. Source: models/modern-bert.cpp."""

from __future__ import annotations

from typing import Final

from ..attention import attend, bare_input
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, norm, output_rows, positions, qkv, select

_UNITS: Final = {"silu": "swiglu", "gelu": "geglu", "relu": "reglu"}


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    x = norm(g, embeddings(g), "token_embd_norm", kind="norm", beside=0)
    pos, masks, rows = positions(g), bare_input(g), output_rows(g)
    act = _UNITS.get(str(g.model.hparams.get("hidden_activation", "")), "geglu")
    for il in g.layers:
        h = norm(g, x, "attn_norm", il, "norm") if g.has("attn_norm.weight", il) else x
        q, k, v = qkv(g, h, il)
        h = attend(g, masks, g.rope(q, pos), g.rope(k, pos), v, il, bias=False)
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        h = ffn(g, norm(g, x, "ffn_norm", il, "norm"), il, act=act, gate=None, biases=False)
        x = g.end_layer(g.add(h, x))
    g.expand(g.output(norm(g, x, "output_norm", kind="norm"), "result_norm"))
