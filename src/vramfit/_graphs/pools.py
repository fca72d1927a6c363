"""Append an indexer over pools of keys: it scores a few consecutive tokens together (GLM 5 Next).

A cell of its cache holds a token's key, a gate, and the pooled key of the pool that ends with it. A small batch gathers the
cells that it selects; a larger one hides all others. In: a `GraphContext`, the input of a layer. Out: the selection.
Source: models/glm5-next.cpp, llama-memory-hybrid-idx.cpp:819 (how many pools a reservation has).
"""

from __future__ import annotations

from dataclasses import dataclass

from .._ggml.backends import pad
from .._ggml.graph import Tensor
from .._ggml.ops import F16, F32, I32, I64, Unbuildable
from .attention import Kv, n_kv, store_k
from .context import GraphContext
from .indexer import index_scores
from .parts import norm, product

__all__ = ["Pools", "attend_gathered", "pools_input", "select_pools"]

FEW = 16  # tokens of a batch that gathers what it selects
STEP = 64  # counts of pools are multiples of it


@dataclass(frozen=True, slots=True)
class Pools:
    """The inputs (llm_graph_input_kpool), and how many there are of each."""

    size: int  # tokens of a pool
    n: int
    n_new: int
    n_best: int
    n_selected: int  # cells
    n_kv: int
    tail: bool  # tokens behind the last whole pool are selected, too
    gathers: bool
    k_idxs: Tensor
    cells: Tensor  # that hold the pooled keys
    members: Tensor
    mask: Tensor
    tail_cells: Tensor
    selected_mask: Tensor
    new_members: Tensor
    new_cells: Tensor


def pools_input(g: GraphContext) -> Pools:
    """Append the inputs; most are allocated whether a node reads them or not."""
    size, top_k = g.n("attention.indexer.kpool"), g.n("attention.indexer.top_k")
    if size < 2 or top_k % size:
        raise Unbuildable(f"{top_k} cells are no pools of {size}")
    cells, n = n_kv(g, list(g.model.layers), "indexer"), g.n_tokens
    whole = cells // size * g.context.n_seq_max
    n_pools = max(STEP, pad(whole + 1, STEP))
    best, tail = min(n_pools, top_k // size), bool(g.hp("attention.indexer.kpool_select_tail", 1))
    selected = size * best + (size - 1 if tail else 0)
    found = Pools(
        size, n_pools, max(whole, 1), best, selected, cells, tail, n <= FEW and cells > selected,
        k_idxs=g.input("attn_inp_k_idxs", I64, n),
        cells=g.input("pool_cells", I32, n_pools),
        members=g.input("pool_idxs", I32, size, n_pools),
        mask=g.input("pool_mask", F16, n_pools, n),
        tail_cells=g.input("tail_idxs", I32, size - 1, n),
        selected_mask=g.input("gather_mask", F32, selected, 1, 1, n),
        new_members=g.input("new_pool_idxs", I32, size, max(whole, 1)),
        new_cells=g.input("new_pool_rep", I64, max(whole, 1)),
    )  # fmt: skip
    for t in (found.cells, found.members, found.mask, found.tail_cells, found.selected_mask):
        g.expand(t)
    return found


def select_pools(g: GraphContext, p: Pools, x: Tensor, row: Tensor, kq_mask: Tensor, il: int) -> Tensor:
    """Choose the cells that each token sees: as a list where the batch gathers them, else as a mask. `row`: what queries are made of."""
    head, n_head, n = g.n("attention.indexer.key_length"), g.n("attention.indexer.head_count"), g.n_tokens
    q = g.reshape(product(g, row, "indexer.attn_q_b", il=il), head, n_head, n)
    key = norm(g, product(g, x, "indexer.attn_k", il=il), "indexer.k_norm", il, "norm")
    packed = g.concat(key, product(g, x, "indexer_compressor_gate", il=il), 0)
    packed = g.concat(packed, g.fill(g.tensor(F32, head, n)), 0)
    g.expand(store_k(g, g.reshape(packed, 3 * head, 1, n), p.k_idxs, il, "indexer"))
    pooled = _pooled(g, p, head, il)
    weights = g.scale(product(g, x, "indexer.proj", il=il))
    scores = index_scores(g, q, pooled, weights, p.mask, il)
    chosen = g.get_rows(p.members, g.reshape(_in_order(g, p, scores), p.n_best * n))
    chosen = g.reshape(chosen, p.size * p.n_best, n)
    if p.tail:
        chosen = g.concat(chosen, p.tail_cells, 0)
    return chosen if p.gathers else _as_mask(g, p, chosen, kq_mask)


def _pooled(g: GraphContext, p: Pools, head: int, il: int) -> Tensor:
    """Read the pooled keys of all pools, with those that the batch completes: [head, 1, pools]."""
    cache = g.cache(il, 0, "indexer")
    count, at = cache.ne[1] * cache.ne[2], 2 * head * cache.type.block_bytes // cache.type.block
    token = g.view(cache, (2 * head, count), cache.nb[1:2])
    pool = g.view(cache, (head, count), cache.nb[1:2], at)
    rows = g.get_rows(token, g.reshape(p.new_members, p.size * p.n_new))
    rows = g.reshape(rows, 2 * head, p.size, p.n_new)
    keys = g.view(rows, (head, p.size, p.n_new), rows.nb[1:3])
    gates = g.view(rows, (head, p.size, p.n_new), rows.nb[1:3], head * rows.nb[0])
    gates = g.add(gates, g.need("indexer_compressor_ape.weight", il))
    gates = g.reshape(g.cont(g.permute(gates, 1, 0, 2, 3)), p.size, head * p.n_new)
    shares = g.reshape(g.soft_max(gates), p.size, head, p.n_new)
    new = g.sum_rows(g.mul(shares, g.cont(g.permute(keys, 1, 0, 2, 3))))
    g.expand(g.set_rows(pool, g.reshape(new, head, p.n_new), p.new_cells))
    return g.reshape(g.get_rows(pool, p.cells), head, 1, p.n)


def _in_order(g: GraphContext, p: Pools, scores: Tensor) -> Tensor:
    """Sort the best pools of each token, best first."""
    n, best = g.n_tokens, g.top_k(scores, p.n_best)
    found = g.get_rows(g.reshape(scores, 1, p.n, n), best)
    order = g.argsort(g.reshape(found, p.n_best, n))
    best = g.get_rows(g.reshape(g.cast(best, F32), 1, p.n_best, n), order)
    return g.cast(g.cont(g.reshape(best, p.n_best, n)), I32)


def _as_mask(g: GraphContext, p: Pools, chosen: Tensor, kq_mask: Tensor) -> Tensor:
    """Make a mask that shows the chosen cells; what is chosen for nothing is written behind the cells."""
    n, count, rows = g.n_tokens, p.n_selected, p.n_kv + p.n_selected
    seed = g.cast(g.view(chosen, (1,)), F32)
    hidden = g.fill(seed if kq_mask.type is F32 else g.cast(seed, kq_mask.type))
    hidden = g.reshape(g.repeat(hidden, 1, rows, n, 1), 1, rows, n)
    shown = g.reshape(g.repeat(g.fill(seed), 1, count, n, 1), 1, count, n)
    live = g.exp(g.reshape(p.selected_mask, count, n))
    behind = g.arange(count)
    at = g.mul(g.sub(g.cast(chosen, F32), behind), live)
    at = g.cast(g.add(at, behind), I32)
    mask = g.set_rows(hidden, shown, g.reshape(at, count, n))
    mask = g.view(mask, (p.n_kv, n), mask.nb[2:3])
    return g.add(mask, g.reshape(kq_mask, p.n_kv, n))


def attend_gathered(
    g: GraphContext, kv: Kv, p: Pools, q: Tensor, chosen: Tensor, v_mla: Tensor, il: int
) -> Tensor:
    """Append attention over the chosen cells of each token alone: [heads together, n_tokens]."""
    g.expand(kv.mask)
    cache, n, n_head = g.cache(il, 0, kv.kind), g.n_tokens, q.ne[1]
    rows = g.view(cache, (cache.ne[0], cache.ne[1] * cache.ne[2]), cache.nb[1:2])
    k = g.get_rows(rows, g.reshape(chosen, p.n_selected * n))
    k = g.reshape(k, cache.ne[0], p.n_selected, 1, n)
    x = g.soft_max(g.mul_mat(k, g.permute(q, 0, 2, 3, 1)), p.selected_mask)
    x = g.mul_mat(v_mla, g.mul_mat(g.cont(g.transpose(k)), x))
    return g.reshape(g.cont(g.permute(x, 0, 2, 1, 3)), x.ne[0] * n_head, n)
