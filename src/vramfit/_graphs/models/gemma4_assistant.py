"""Gemma 4's assistant, which keeps no keys: it reads the caches of the model that it drafts for.

Source: models/gemma4-assistant.cpp. The engine makes no context of it without that model's.
"""

from __future__ import annotations

from ..._ggml.ops import Unbuildable
from ..context import GraphContext


def build(g: GraphContext) -> None:
    """Say that the graph is not built."""
    raise Unbuildable("its layers read the caches of the model that it drafts for, which is not given")
