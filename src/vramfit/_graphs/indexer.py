"""Append sparse attention: an indexer scores all cells, and attention sees only the best of them.

In: a `GraphContext`, the input of a layer and the short row of its queries. Out: the best cells of each token, and
attention over them. Source: models/deepseek32.cpp, models/glm-dsa.cpp, `build_attn` of llm_graph_input_attn_k_dsa
(llama-graph.cpp:3040), `build_attn_inp_k_dsa` (3336).
"""

from __future__ import annotations

from dataclasses import dataclass

from .._ggml.graph import Tensor
from .._ggml.ops import F16, F32, I64, Unbuildable
from .._ggml.types import TensorType
from .attention import Kv, Scoring, cached_k, k_input, kq_mask, mha, n_kv, store_k, values_in
from .context import GraphContext
from .parts import linear, n_rot, norm, product

__all__ = [
    "Indexed",
    "attend_best",
    "best_cells",
    "index_scores",
    "indexed_input",
    "indexer_rotation",
    "keep_best",
    "queries_by_stream",
    "top_cells",
    "weights_by_stream",
]

LIGHTNING = "lightning_indexer"


@dataclass(frozen=True, slots=True)
class Indexed:
    """The inputs of sparse attention: those of the main cache, and those of the indexer's."""

    kv: Kv
    k_idxs: Tensor
    mask: Tensor
    rot: Tensor


def indexed_input(g: GraphContext, kv: Kv | None = None) -> Indexed:
    """Append the inputs for a cache and its indexer's, whose mask is f16: the indexer is one operation (llama-context.cpp:237)."""
    kv = k_input(g) if kv is None else kv
    k_idxs = g.input("attn_inp_k_idxs", I64, g.n_tokens)
    mask = kq_mask(g, n_kv(g, list(g.model.layers), "indexer"), F16)
    return Indexed(kv, k_idxs, mask, indexer_rotation(g))


def indexer_rotation(g: GraphContext) -> Tensor:
    """Append the matrix that rotates an indexer's queries and keys, whatever the type of its cache (llama-kv-cache.cpp:327)."""
    size, n = g.n("attention.indexer.key_length"), 64
    while size > 0 and not size % (2 * n):
        n *= 2
    return g.input("attn_inp_k_rot", F32, n, n)


def best_cells(
    g: GraphContext, x: Indexed, h: Tensor, row: Tensor, pos: Tensor, il: int, *, rotated: bool = True
) -> Tensor:
    """Choose the best cells for each token, [top_k, tokens of a stream, 1, streams].

    `row` is what queries are made of. `rotated`: queries and keys go through the indexer's matrix.
    """
    head, n_head = g.n("attention.indexer.key_length"), g.n("attention.indexer.head_count")
    if n_rot(g) > head:
        raise Unbuildable(f"an indexer's heads of {head} elements are shorter than what is rotated")
    q = g.rope(g.reshape(product(g, row, "indexer.attn_q_b", il=il), head, n_head, g.n_tokens), pos)
    k = norm(g, product(g, h, "indexer.attn_k", il=il), "indexer.k_norm", il, "norm")
    k = g.rope(g.reshape(k, head, 1, g.n_tokens), pos)
    if rotated:
        q, k = g.mul_mat(x.rot, q), g.mul_mat(x.rot, k)
    g.expand(store_k(g, k, x.k_idxs, il, "indexer"))
    k = cached_k(g, il, "indexer")
    weights = g.scale(weights_by_stream(g, product(g, h, "indexer.proj", il=il), k.ne[3]))
    scores = index_scores(g, queries_by_stream(g, q, k.ne[3]), k, weights, x.mask, il)
    return top_cells(g, scores)


def top_cells(g: GraphContext, scores: Tensor) -> Tensor:
    """Choose the cells of the highest scores, as many as the header says."""
    return g.named(g.cont(g.top_k(scores, min(scores.ne[0], g.n("attention.indexer.top_k")))), "top_k")


def queries_by_stream(g: GraphContext, q: Tensor, n: int) -> Tensor:
    """Cut an indexer's queries into the streams of a cache."""
    return g.view(q, (q.ne[0], q.ne[1], q.ne[2] // n, n), (q.nb[1], q.nb[2], q.nb[3] // n))


def weights_by_stream(g: GraphContext, w: Tensor, n: int) -> Tensor:
    """Cut the weights of an indexer's heads into the streams of a cache."""
    return g.view(w, (w.ne[0], w.ne[1] // n, w.ne[2], n), (w.nb[1], w.nb[2] // n, w.nb[3] // n))


def index_scores(g: GraphContext, q: Tensor, k: Tensor, weights: Tensor, mask: Tensor, il: int) -> Tensor:
    """Score each cell for each token: [cells, tokens of a stream, 1, streams]."""
    x = g.of("LIGHTNING_INDEXER", (k.ne[2], q.ne[2], 1, q.ne[3]), q, k, weights, mask)
    return g.fused(x, il, LIGHTNING)


def keep_best(g: GraphContext, mask: Tensor, best: Tensor, zero: TensorType = F32) -> Tensor:
    """Make a mask that hides all cells but the best ones, and those that `mask` hides. `zero`: the type of what shows."""
    hidden = g.fill(mask)
    n, tokens, _, streams = hidden.ne
    cells = g.view(hidden, (1, n, tokens, streams), hidden.nb[:3])
    rows = g.view(
        best, (best.ne[0], best.ne[1], best.ne[3]), (best.nb[1], best.nb[2], best.ne[3] * best.nb[3])
    )
    zeros = g.fill(g.tensor(zero, 1, *rows.ne[:3]))
    shown = g.set_rows(cells, zeros, rows)
    shown = g.view(shown, (shown.ne[1], shown.ne[2], 1, shown.ne[3]), (shown.nb[2], shown.nb[3], shown.nb[3]))
    return g.add(shown, mask)


def attend_best(
    g: GraphContext, kv: Kv, q: Tensor, k: Tensor, v: Tensor, best: Tensor, il: int,
    *, out: str | None = "attn_output", sinks: Tensor | None = None, v_mla: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Append attention over the best cells of a cache whose keys are values, too, and the output projection (`out`)."""
    for t in (q, v, k):
        g.expand(t)
    g.expand(store_k(g, k, kv.k_idxs, il, kv.kind))
    mask = keep_best(g, kv.mask, best)
    k = cached_k(g, il, kv.kind)
    x = mha(g, q, k, values_in(g, k, v.ne[0]), Scoring(il, mask, sinks=sinks, v_mla=v_mla))
    return x if out is None else linear(g, x, out, il, bias=False)
