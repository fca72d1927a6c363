"""Add layers of a projector, which come packed behind the embeddings, to the input of some layers.

Source: models/granite.cpp, `LLM_KV_DEEPSTACK_MAPPING`.
"""

from __future__ import annotations

from .._ggml.graph import Tensor, is_contiguous
from .._llama.model import Model
from .context import GraphContext
from .parts import embeddings

__all__ = ["add_stack", "mapped", "stacked_embeddings"]

_KEY = "deepstack_mapping"


def mapped(model: Model, il: int) -> int:
    """Return which of the packed layers is added before layer `il`; below zero for none."""
    found = model.hparams.get(_KEY)
    return int(found[il]) if isinstance(found, (list, tuple)) and il < len(found) else -1


def stacked_embeddings(g: GraphContext) -> tuple[Tensor, Tensor]:
    """Append the embeddings, scaled where the header says so; return them, and the input with all that is packed behind them."""
    found = g.model.hparams.get(_KEY)
    counted = {int(i) for i in found if int(i) >= 0} if isinstance(found, (list, tuple)) else set()
    raw = embeddings(g, deepstack=len(counted))
    if not g.hp("embedding_scale"):
        return raw, raw
    return g.expand(g.scale(raw if is_contiguous(raw) else g.cont(raw))), raw


def add_stack(g: GraphContext, x: Tensor, raw: Tensor, il: int) -> Tensor:
    """Add its packed layer to the input of a layer; the first packed layer is the embedding itself."""
    i = mapped(g.model, il)
    if il == 0 or i < 0:
        return x
    size = g.n_embd * raw.nb[0]
    return g.add(x, g.view(raw, (g.n_embd, g.n_tokens), raw.nb[1:2], i * size))
