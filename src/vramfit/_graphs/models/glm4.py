"""GLM 4: norms before and behind each part. Source: models/glm4.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..decoder import finish, has_sections
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, norm, output_rows, positions, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    x = embeddings(g)
    pos, kv, rows = positions(g, 4 if has_sections(g) else 1), kv_input(g), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        h = attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il, bias=False)
        h, x = select(g, rows, il, h, x)
        x = g.add(norm(g, h, "post_attention_norm", il), x)
        h = ffn(g, norm(g, x, "ffn_norm", il), il, act="swiglu", gate=None, biases=False)
        x = g.end_layer(g.add(norm(g, h, "post_ffw_norm", il), x))
    finish(g, x)
