"""What becomes of the embeddings when a context is for embeddings: pooled, and through dense layers.

Source: `build_pooling` and `build_dense_out` (llama-graph.cpp:3686-3809). A context of which nobody says how to
pool has the model's own way (llama-context.cpp, pooling_type).
"""

from __future__ import annotations

from .._ggml.graph import Tensor
from .context import GraphContext

__all__ = ["pooled"]


def pooled(g: GraphContext, x: Tensor) -> Tensor | None:
    """The pooled result of a context for embeddings; None in others."""
    return g.expand(g.output(x, "result_embd_pooled")) if g.run.embeddings else None
