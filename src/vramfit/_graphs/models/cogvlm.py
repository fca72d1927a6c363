"""CogVLM: a plain decoder for text; images bring weights of their own. Source: models/cogvlm.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, linear, logits, norm, positions


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    x = embeddings(g)
    pos, kv = positions(g), kv_input(g)
    for il in g.layers:
        h = linear(g, norm(g, x, "attn_norm", il), "attn_qkv", il, scale=False, bias=False)
        size, n_q, n_kv = g.head_v(), g.n_head(), g.n_head_kv()
        q = g.view(h, (size, n_q, g.n_tokens), (4 * size, h.nb[1]))
        k = g.view(h, (size, n_kv, g.n_tokens), (4 * size, h.nb[1]), g.n_embd * h.nb[0])
        v = g.view(h, (size, n_kv, g.n_tokens), (4 * size, h.nb[1]), 2 * g.n_embd * h.nb[0])
        x = g.add(attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il, bias=False), x)
        h = ffn(g, norm(g, x, "ffn_norm", il), il, biases=False)
        x = g.end_layer(g.add(h, x))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(logits(g, x, bias=False), "result_output"))
