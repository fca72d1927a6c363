"""PLM: latent keys and values, spread out before they are cached, and squared units. Source: models/plm.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import embeddings, linear, logits, norm, output_rows, positions, select, wide
from .minicpm3 import spread


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = embeddings(g)
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        h = norm(g, x, "attn_norm", il)
        q = wide(g, linear(g, h, "attn_q", il, scale=False, bias=False), g.head_k(), g.n_head())
        k, v = spread(g, h, pos, None, il)
        width = g.head_v() * g.n_head()
        v = g.view(v, (width, g.n_tokens), (width * v.nb[0],))
        h = attend(g, kv, g.rope(q, pos), k, v, il, bias=False)
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        h = ffn(g, norm(g, x, "ffn_norm", il), il, act="relu_sqr", gate=None, biases=False)
        x = g.end_layer(g.add(h, x))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(logits(g, x, bias=False), "result_output"))
