"""Append attention to chosen blocks: a small attention scores pooled keys, and a mask leaves out the cells of the rest.

In: the layer's input, the inputs of plain attention. Out: the chosen cells, and attention to them.
Source: `build_qsa_top_k` and `build_attn_qsa` (models/qwen4exp.cpp:548-780).
"""

from __future__ import annotations

from dataclasses import dataclass

from .._ggml.graph import Tensor
from .._ggml.ops import F32, I32, I64, Unbuildable
from .attention import Kv, Scoring, cached_k, cached_v, mha, store_k, store_v
from .context import GraphContext
from .parts import linear, norm

__all__ = ["Blocks", "attend_chosen", "blocks_input", "choose_cells"]


@dataclass(frozen=True, slots=True)
class Blocks:
    """The inputs of layers whose blocks have the same size (llm_graph_input_qsa)."""

    size: int  # cells of a block
    k_idxs: Tensor
    of_cells: Tensor  # the block of each cell
    cells: Tensor  # the cells of each block
    positions: Tensor
    bias: Tensor  # which blocks a token may see


def blocks_input(g: GraphContext, mask: Tensor, size: int) -> Blocks:
    """Append the inputs for blocks of `size` cells; `mask` is that of plain attention."""
    n_kv, n, n_stream = mask.ne[0], mask.ne[1], mask.ne[3]
    count = -(-n_kv // size)
    return Blocks(
        size,
        g.input("attn_inp_k_idxs", I64, g.n_tokens),
        g.input("qsa_cell_blk", I32, n_kv, n_stream),
        g.input("qsa_blk_cells", I32, size * count, n_stream),
        g.input("qsa_blk_pos", I32, 4 * count * n_stream),
        g.input("qsa_bias", F32, count, n, n_stream),
    )


def choose_cells(g: GraphContext, blocks: Blocks, x: Tensor, pos: Tensor, mask: Tensor, il: int) -> Tensor:
    """Choose the cells that each token attends to: [chosen, tokens of a stream, 1, streams]."""
    size, n_head = g.n("attention.indexer.key_length"), g.n("attention.indexer.head_count")
    n_kv, n, n_stream = mask.ne[0], mask.ne[1], mask.ne[3]
    k = _product(g, x, "indexer.k_proj", il)
    g.expand(store_k(g, g.reshape(k, size, 1, g.n_tokens), blocks.k_idxs, il, "indexer"))
    keys = _pooled_keys(g, blocks, size, n_kv, n_stream, il)
    q = g.reshape(_product(g, x, "indexer.q_proj", il), size, n_head, g.n_tokens)
    q = g.rope(norm(g, q, "indexer.q_norm", il), pos)
    score = g.mul_mat(keys, g.reshape(q, size, n_head * n, n_stream))
    score = g.relu(g.reshape(score, keys.ne[1], n_head, n, n_stream))
    total = g.add(_sum_of_heads(g, score), blocks.bias)
    by_cell = g.get_rows(g.cont(g.permute(total, 1, 0, 2, 3)), blocks.of_cells)
    by_cell = g.cont(g.permute(by_cell, 1, 0, 2, 3))
    wide_mask = mask if mask.type is F32 else g.cast(mask, F32)
    by_cell = g.add(by_cell, g.reshape(wide_mask, n_kv, n, n_stream))
    width = min(n_kv, g.n("attention.indexer.top_k") + blocks.size - 1)
    return g.reshape(g.cont(g.top_k(by_cell, width)), width, n, 1, n_stream)


def _product(g: GraphContext, x: Tensor, name: str, il: int) -> Tensor:
    return linear(g, x, name, il, scale=False, bias=False)


def _pooled_keys(g: GraphContext, blocks: Blocks, size: int, n_kv: int, n_stream: int, il: int) -> Tensor:
    """Average the cached keys of each block, normed and rotated: [size, blocks, streams]."""
    cache = g.cache(il, 0, "indexer")
    bytes_ = size * cache.type.block_bytes // cache.type.block
    k = g.view(cache, (size, 1, n_kv, cache.ne[2]), (bytes_, cache.nb[1], cache.nb[1] * cache.ne[1]))
    k = g.view(k, (size, n_kv, n_stream), k.nb[2:4])
    count = blocks.cells.ne[0] // blocks.size
    members = g.reshape(g.get_rows(k, blocks.cells), size, blocks.size, count, n_stream)
    total = None
    for i in range(blocks.size):
        part = g.view(members, (size, count, n_stream), members.nb[2:4], i * members.nb[1])
        part = g.cont(part)
        total = part if total is None else g.add(total, part)
    if total is None:
        raise Unbuildable("blocks of no cells")
    mean = g.reshape(g.scale(total), size, count * n_stream, 1)
    mean = g.reshape(norm(g, mean, "indexer.k_norm", il), size, 1, count * n_stream)
    return g.reshape(g.rope(mean, blocks.positions), size, count, n_stream)


def _sum_of_heads(g: GraphContext, score: Tensor) -> Tensor:
    count, n_head, n, n_stream = score.ne
    total = None
    for h in range(n_head):
        part = g.view(score, (count, n, n_stream), score.nb[2:4], h * score.nb[1])
        total = g.cont(part) if total is None else g.add(total, part)
    if total is None:
        raise Unbuildable("an indexer without heads")
    return total


def attend_chosen(
    g: GraphContext, kv: Kv, q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, il: int
) -> Tensor:
    """Append attention to the chosen cells, without an output projection."""
    if kv.v_idxs is None:
        raise Unbuildable(f"layer {il} has no values")
    if kv.k_rot is not None:
        q, k = g.hadamard(q, kv.k_rot), g.hadamard(k, kv.k_rot)
    if kv.v_rot is not None:
        v = g.hadamard(v, kv.v_rot)
    for t in (q, v, k):
        g.expand(t)
    g.expand(store_k(g, k, kv.k_idxs, il))
    g.expand(store_v(g, v, kv.v_idxs, il))
    mask = _only(g, kv.mask, chosen)
    x = mha(g, q, cached_k(g, il), cached_v(g, il), Scoring(il, mask))
    return x if kv.v_rot is None else g.hadamard(x, kv.v_rot)


def _only(g: GraphContext, mask: Tensor, chosen: Tensor) -> Tensor:
    """Make a mask that hides all cells but the chosen ones, and those that `mask` hides."""
    n_kv, n, _, n_stream = mask.ne
    none = g.fill(mask)
    none = g.view(none, (1, n_kv, n, n_stream), none.nb[:3])
    rows = (chosen.ne[0], chosen.ne[1], chosen.ne[3])
    ids = g.view(chosen, (*rows, 1), (chosen.nb[1], chosen.nb[2], chosen.ne[3] * chosen.nb[3]))
    open_ = g.set_rows(none, g.fill(g.tensor(F32, 1, *rows)), ids)
    open_ = g.view(open_, (n_kv, n, 1, n_stream), (open_.nb[2], open_.nb[3], open_.nb[3]))
    return g.add(open_, mask)
