"""Llama 4: chunks of context, layers without rotation, experts weighed before they run. Source: models/llama4.cpp."""

from __future__ import annotations

from typing import Final

from ..._llama.model import Model
from ..attention import attend
from ..context import GraphContext
from ..decoder import any_input, finish
from ..experts import shared
from ..feed_forward import ffn, moe
from ..parts import (
    check_heads,
    embeddings,
    norm,
    output_rows,
    positions,
    qkv,
    rope_factors,
    select,
    temperature,
)

MAVERICK: Final = 128  # experts of the model whose queries and keys are not normed (llama4.cpp:41)


def traits(model: Model, il: int) -> bool:
    """Whether the layer rotates: without windows all but the last do, else three of four."""
    step = 4 if any(x.is_swa for x in model.layers) else sum(not x.is_nextn for x in model.layers)
    return (il + 1) % step != 0


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = embeddings(g)
    pos, factor = positions(g), temperature(g)
    kv, rows = any_input(g), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        if traits(g.model, il):
            factors = rope_factors(g, il)
            q, k = g.rope(q, pos, factors), g.rope(k, pos, factors)
            if g.n_expert != MAVERICK:
                q, k = g.rms_norm(q), g.rms_norm(k)
        else:
            q = g.mul(q, factor)
        h, x = select(g, rows, il, attend(g, kv, q, k, v, il), x)
        x = g.add(h, x)
        h = norm(g, x, "ffn_norm", il)
        if g.has("ffn_gate_inp.weight", il):
            h = g.add(moe(g, h, il, gating="sigmoid", norm=False, weights_first=True), shared(g, h, il))
        else:
            h = ffn(g, h, il)
        x = g.end_layer(g.add(h, x))
    finish(g, x)
