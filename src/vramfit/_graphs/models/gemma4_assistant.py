"""The draft of Gemma 4: it reads the caches and embeddings of its target. Source: models/gemma4-assistant.cpp."""

from __future__ import annotations

from ..._ggml.ops import Unbuildable
from ..context import GraphContext


def build(g: GraphContext) -> None:
    """Raise `Unbuildable`: the engine makes no context of it without its target's."""
    raise Unbuildable("the engine makes no context of a Gemma 4 draft without the model that it drafts for")
