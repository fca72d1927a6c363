"""gpt-oss: sinks, windows in every other layer, experts with biases. Source: models/openai-moe.cpp."""

from __future__ import annotations

from ..attention import attend, windowed_input
from ..context import GraphContext
from ..decoder import finish
from ..feed_forward import moe
from ..parts import embeddings, n_rot, norm, output_rows, positions, qkv


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = embeddings(g)
    pos, kv, rows = positions(g), windowed_input(g), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il, head=n_rot(g))
        h = attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il, sinks=g.w("attn_sinks.weight", il))
        x = g.add(h, x)
        h = norm(g, x, "post_attention_norm", il)
        h = moe(
            g, h, il, gating="softmax_weight", norm=False, act="swiglu_oai", router_bias=True, biases=True
        )
        x = g.end_layer(g.add(h, x))
    x = g.get_rows(g.output(x, "h_nextn"), rows)
    finish(g, x)
