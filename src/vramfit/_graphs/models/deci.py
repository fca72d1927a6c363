"""DeciLM, Nemotron Ultra: layers without attention, with a projection in its place, or without feed-forward. Source: models/deci.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import (
    check_heads,
    embeddings,
    linear,
    logits,
    norm,
    output_rows,
    positions,
    qkv,
    rope_factors,
    select,
)


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = embeddings(g)
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        n_head, n_head_kv = g.n_head(il), g.n_head_kv(il)
        h = norm(g, x, "attn_norm", il) if n_head else x
        if n_head and not n_head_kv:
            h = linear(g, h, "attn_output", il, scale=False, bias=False)
        elif n_head:
            factors = rope_factors(g, il)
            q, k, v = qkv(g, h, il, n_head=n_head, n_head_kv=n_head_kv)
            h = attend(g, kv, g.rope(q, pos, factors), g.rope(k, pos, factors), v, il)
        kept = x
        h, x = select(g, rows, il, h, x)
        if not g.layer(il).n_ff:
            x = g.end_layer(kept)  # the engine goes on with what came in, whatever attention has made of it
            continue
        x = g.add(h, x) if n_head else h
        h = norm(g, x, "ffn_norm", il)
        x = g.end_layer(g.add(ffn(g, h, il), x))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(logits(g, x, bias=False), "result_output"))
