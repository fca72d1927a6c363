"""BLOOM: biased scores in place of positions, and a norm on the embeddings. Source: models/bloom.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, logits, norm, output_rows, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    x = norm(g, embeddings(g), "token_embd_norm", kind="norm", beside=0)
    kv, rows = kv_input(g, alibi=True), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il, "norm"), il)
        h = attend(g, kv, q, k, v, il)
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        h = ffn(g, norm(g, x, "ffn_norm", il, "norm"), il, act="gelu", gate=None)
        x = g.end_layer(g.add(h, x))
    x = g.output(norm(g, x, "output_norm", kind="norm"), "result_norm")
    g.expand(g.output(logits(g, x, bias=False), "result_output"))
