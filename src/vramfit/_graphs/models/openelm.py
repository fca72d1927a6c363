"""OpenELM: heads and feed-forward of another size in each layer. Source: models/openelm.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, linear, logits, norm, output_rows, positions, select, wide


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    x = embeddings(g)
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        h = linear(g, norm(g, x, "attn_norm", il), "attn_qkv", il, scale=False, bias=False)
        head, n_q, n_kv = g.head_k(), g.n_head(il), g.n_head_kv(il)
        t = wide(g, h, head, n_q + 2 * n_kv)
        q = g.view(t, (g.head_v(), n_q, g.n_tokens), t.nb[1:3])
        k = g.view(t, (g.head_v(), n_kv, g.n_tokens), t.nb[1:3], t.nb[1] * n_q)
        v = g.view(t, (g.head_v(), n_kv, g.n_tokens), t.nb[1:3], t.nb[1] * (n_q + n_kv))
        q, k = norm(g, q, "attn_q_norm", il), norm(g, k, "attn_k_norm", il)
        h = attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il, bias=False)
        x, h = select(g, rows, il, x, h)
        x = g.add(x, h)
        h = ffn(g, norm(g, x, "ffn_norm", il), il, biases=False)
        x = g.end_layer(g.add(h, x))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(logits(g, x, bias=False), "result_output"))
