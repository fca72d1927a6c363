"""EmbeddingGemma: Gemma 3's layers without a cache. Source: models/gemma-embedding.cpp."""

from __future__ import annotations

from ..attention import attend, bare_input
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import embeddings, norm, output_rows, positions, qkv, select


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = g.scale(embeddings(g, scale=False))
    pos, kv, rows = positions(g), bare_input(g), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il, head=g.head_k())
        q = g.scale(g.rope(norm(g, q, "attn_q_norm", il), pos))
        k = g.rope(norm(g, k, "attn_k_norm", il), pos)
        h = attend(g, kv, q, k, v, il, bias=False)
        h, x = select(g, rows, il, h, x)
        x = g.add(norm(g, h, "post_attention_norm", il), x)
        h = ffn(g, norm(g, x, "ffn_norm", il), il, act="gelu", biases=False)
        x = g.end_layer(g.add(norm(g, h, "post_ffw_norm", il, pinned=False), x))
    g.expand(g.output(norm(g, x, "output_norm"), "result_norm"))
