"""GLM 4.5 to 4.7: experts beside a shared one. Source: models/glm4-moe.cpp."""

from __future__ import annotations

from ..attention import attend, kv_input
from ..context import GraphContext
from ..decoder import finish, has_sections, norm_if
from ..experts import beside_shared
from ..parts import check_heads, embeddings, norm, output_rows, positions, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    x = embeddings(g)
    pos, kv, rows = positions(g, 4 if has_sections(g) else 1), kv_input(g), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        q, k = norm_if(g, q, "attn_q_norm", il), norm_if(g, k, "attn_k_norm", il)
        h = attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il, bias=False)
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        h = beside_shared(g, norm(g, x, "post_attention_norm", il), il, "sigmoid")
        x = g.end_layer(g.add(h, x))
    finish(g, x)
