"""The encoder of T5 alone. Source: models/t5.cpp, models/t5encoder.cpp."""

from __future__ import annotations

from ..._ggml.ops import I32
from ..attention import attend, bare_input
from ..context import GraphContext
from ..parts import check_heads, embeddings, linear, norm, output_rows, select, wide
from .t5 import feed, position_bias


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    x = embeddings(g)
    masks, rows = bare_input(g), output_rows(g)
    buckets = g.input("pos_bucket_enc", I32, g.n_tokens, g.n_tokens)
    for il in g.layers:
        h = norm(g, x, "enc.attn_norm", il)
        q, k, v = (
            wide(g, linear(g, h, f"enc.attn_{c}", il, scale=False, bias=False), g.head_v(), n)
            for c, n in (("q", g.n_head()), ("k", g.n_head_kv()), ("v", g.n_head_kv()))
        )
        bias = position_bias(g, buckets, "enc", il)
        h = attend(g, masks, q, k, v, il, out="enc.attn_o", bias=False, scale=False, kq_b=bias)
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        x = g.end_layer(g.add(feed(g, norm(g, x, "enc.ffn_norm", il), il, "enc"), x))
    g.expand(g.output(norm(g, x, "enc.output_norm"), "result_norm"))
