"""BitNet: norms inside attention and feed-forward, scales on every matrix, a tied output. Source: models/bitnet.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, linear, norm, output_rows, positions, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    x = embeddings(g)
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        h = attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il, out=None)
        h = linear(g, norm(g, h, "attn_sub_norm", il), "attn_output", il)
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        h = ffn(g, norm(g, x, "ffn_norm", il), il, down=None, biases=False, scales=True)
        h = linear(g, norm(g, h, "ffn_sub_norm", il), "ffn_down", il, bias=False)
        x = g.end_layer(g.add(h, x))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(g.mul_mat(g.need("token_embd.weight"), x), "result_output"))
