"""Pool the embeddings, and put them through dense layers, when a context is for embeddings.

In: a finished graph whose builder has marked the embeddings as an output. It runs for every architecture, after its builder.
A context pools as it is told, or else in the model's own way (`pooling_type`, llama-context.cpp:216).
Source: `build_graph` (llama-model.cpp:2884-2898), `build_pooling` and `build_dense_out` (llama-graph.cpp:3686-3809).
"""

from __future__ import annotations

from typing import Final

from .._base.errors import EngineRefusal
from .._ggml.graph import Tensor
from .._ggml.ops import F32, I32, Unbuildable
from .context import GraphContext
from .parts import norm

__all__ = ["pool"]

# enum llama_pooling_type (llama.h); a header that says -1 means none
NONE: Final = 0
MEAN: Final = 1
CLS: Final = 2
LAST: Final = 3
RANK: Final = 4
UNSPECIFIED: Final = (-1, (1 << 32) - 1)


def pool(g: GraphContext) -> None:
    """Append what a context for embeddings has behind the graph of its model; in others, nothing."""
    if not g.run.embeddings:
        return
    if g.embd is None:
        raise Unbuildable(f"{g.model.architecture} has no embeddings to pool")
    x = g.expand(_dense(g, g.expand(_pooled(g, g.embd))))
    g.output(x, "result_embd_pooled")


def _pooled(g: GraphContext, x: Tensor) -> Tensor:
    """Pool to one row for each sequence, or leave the rows as they are (build_pooling)."""
    told = g.run.context.pooling
    kind = g.n("pooling_type", NONE) if told is None else told
    if kind == NONE or kind in UNSPECIFIED:
        return x
    if kind == MEAN:
        return _mean(g, x)
    if kind in (CLS, LAST):
        return _one_row(g, x)
    if kind == RANK:
        return _rank(g, _mean(g, x) if _classifier(g) == MEAN else _one_row(g, x))
    raise Unbuildable(f"the engine knows no pooling_type {kind}")


def _classifier(g: GraphContext) -> int:
    """How rows become one before the head of a classifier (models/modern-bert.cpp:24)."""
    kind = g.n("classifier.pooling_type", UNSPECIFIED[0])
    return MEAN if kind in UNSPECIFIED and g.model.architecture == "modern-bert" else kind


def _mean(g: GraphContext, x: Tensor) -> Tensor:
    """Pool to the mean of each sequence. Raises `EngineRefusal` where rows and tokens differ (ggml_can_mul_mat aborts)."""
    if x.ne[1] != g.n_tokens:
        raise EngineRefusal(
            f"mean pooling of {g.n_tokens} tokens, of which {x.ne[1]} are outputs: the engine stops at its start; set"
            f" n_ubatch to a multiple of the {g.n_seqs} slots, and n_outputs_max to 0"
        )
    mean = g.input("mean", F32, g.n_tokens, g.n_seqs)
    return g.mul_mat(g.cont(g.transpose(x)), mean)


def _one_row(g: GraphContext, x: Tensor) -> Tensor:
    return g.get_rows(x, g.input("cls", I32, g.n_seqs))


def _rank(g: GraphContext, x: Tensor) -> Tensor:
    """Append the head of a classifier, as far as the model has one: a reranker."""
    architecture = g.model.architecture
    if g.has("cls.weight"):
        x = _product(g, x, "cls")
        x = g.gelu(x) if architecture == "modern-bert" else g.tanh(x)
        if g.has("cls.norm.weight"):
            x = norm(g, x, "cls.norm", kind="norm")
    if g.has("cls.output.weight"):
        x = _product(g, x, "cls.output")
    return g.soft_max(x) if architecture in ("qwen3", "qwen3vl") else x


def _dense(g: GraphContext, x: Tensor) -> Tensor:
    """Append the dense layers of a sentence transformer, as far as the model has them (build_dense_out)."""
    if g.has("dense_2.weight"):
        x = g.mul_mat(g.need("dense_2.weight"), x)
    bias = g.w("dense_2.bias")
    if bias is not None:
        x = g.add(x, bias)
    return g.mul_mat(g.need("dense_3.weight"), x) if g.has("dense_3.weight") else x


def _product(g: GraphContext, x: Tensor, name: str) -> Tensor:
    x = g.mul_mat(g.need(f"{name}.weight"), x)
    bias = g.w(f"{name}.bias")
    return x if bias is None else g.add(x, bias)
