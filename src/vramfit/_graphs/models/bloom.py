"""BLOOM: biased scores in place of positions, and a norm on the embeddings. Source: models/bloom.cpp."""

from __future__ import annotations

from ..attention import kv_input
from ..context import GraphContext
from ..decoder import ungated
from ..parts import check_heads, embeddings, norm


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    x = norm(g, embeddings(g), "token_embd_norm", kind="norm", beside=0)
    ungated(g, x, None, kv_input(g, alibi=True), "gelu")
