"""GPT-NeoX: attention and feed-forward side by side where its header says so. Source: models/gptneox.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, logits, norm, output_rows, positions, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    x = embeddings(g)
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    beside = bool(g.hp("use_parallel_residual"))
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il, "norm"), il)
        h = attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il)
        h, x = select(g, rows, il, h, x)
        if beside:
            y = ffn(g, norm(g, x, "ffn_norm", il, "norm"), il, act="gelu", gate=None)
            x = g.end_layer(g.add(g.add(y, x), h))
            continue
        x = g.add(h, x)
        y = ffn(g, norm(g, x, "ffn_norm", il, "norm"), il, act="gelu", gate=None)
        x = g.end_layer(g.add(y, x))
    x = g.output(norm(g, x, "output_norm", kind="norm"), "result_norm")
    g.expand(g.output(logits(g, x, bias=False), "result_output"))
