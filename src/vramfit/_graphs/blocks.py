"""Append attention over blocks of positions (MiniMax sparse attention): an indexer ranks the blocks, and each group of heads has its own.

Positions are mapped to cells by inputs. With one token a stream the chosen cells are gathered; else they are masked, stream
by stream. In: a `GraphContext`, queries, keys and values. Out: the result in front of the output projection.
Source: models/minimax-m3.cpp, llama-kv-cache-msa.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

from .._ggml.graph import Tensor, is_contiguous
from .._ggml.ops import F16, F32, I32, I64, Unbuildable
from .attention import Kv, cached_k, cached_v, store_k, store_v
from .context import GraphContext
from .parts import norm, product

__all__ = ["Blocks", "attend_blocks", "blocks_input"]

POSITIONS = 256  # that an empty cache is taken to hold (llama-kv-cache-msa.cpp:262)


@dataclass(frozen=True, slots=True)
class Blocks:
    """The inputs (llm_graph_input_msa), and how many there are of each."""

    size: int  # positions of a block
    n: int  # blocks
    n_best: int
    n_tokens: int  # of a stream
    n_stream: int
    k_idxs: Tensor
    bias: Tensor  # blocks that are always chosen
    visible: Tensor  # positions that a token sees
    cell_of: Tensor  # position -> cell
    cell_as_f32: Tensor | None  # the same, with one token a stream
    block_of: Tensor | None  # cell -> block, with more
    mask: Tensor | None  # the mask of the cache in f32, with more

    @property
    def n_pos(self) -> int:
        """Positions."""
        return self.n * self.size


def blocks_input(g: GraphContext, kv: Kv) -> Blocks | None:
    """Append the inputs; None where the engine falls back to all cells."""
    c, size = g.context, g.n("attention.indexer.block_size")
    if not g.flash_attn or (c.n_seq_max > 1 and c.kv_unified):
        return None
    if size <= 0:
        raise Unbuildable("blocks of no positions")
    n_kv, tokens, _, streams = kv.mask.ne
    n = -(-POSITIONS // size)
    one = tokens == 1
    return Blocks(
        size,
        n,
        min(g.n("attention.indexer.top_k"), n),
        tokens,
        streams,
        g.input("attn_inp_k_idxs_idx", I64, g.n_tokens),
        g.input("msa_bias", F32, n, g.n_tokens),
        g.input("msa_pos_mask", F32, n * size, g.n_tokens),
        g.input("msa_pos_slot_i", I32, n * size, streams),
        g.input("msa_pos_slot_f", F32, n * size, streams) if one else None,
        None if one else g.input("msa_cell_blk", I32, n_kv, streams),
        None if one else g.cast(kv.mask, F32),
    )


def attend_blocks(
    g: GraphContext, kv: Kv, b: Blocks, x: Tensor, q: Tensor, k: Tensor, v: Tensor, pos: Tensor, il: int
) -> Tensor:
    """Append the attention of one layer over the best blocks. `x` is what the indexer reads."""
    size, n_head = g.n("attention.indexer.key_length"), g.n("attention.indexer.head_count")
    index_q, index_k = (
        g.rope(
            norm(
                g,
                g.reshape(product(g, x, f"indexer.{c}_proj", il=il), size, n, g.n_tokens),
                f"indexer.{c}_norm",
                il,
            ),
            pos,
        )
        for c, n in (("q", n_head), ("k", 1))
    )
    g.expand(store_k(g, index_k, b.k_idxs, il, "indexer"))
    if kv.k_rot is not None:
        q, k = g.hadamard(q, kv.k_rot), g.hadamard(k, kv.k_rot)
    v = v if kv.v_rot is None else g.hadamard(v, kv.v_rot)
    for t in (q, k, v):
        g.expand(t)
    g.expand(store_k(g, k, kv.k_idxs, il))
    if kv.v_idxs is None:
        raise Unbuildable("a cache without values")
    g.expand(store_v(g, v, kv.v_idxs, il))
    k, v, keys = cached_k(g, il), cached_v(g, il), cached_k(g, il, "indexer")
    if k.ne[1] != n_head or k.ne[3] != b.n_stream:
        raise Unbuildable(f"{n_head} heads of an indexer for {k.ne[1]} groups")
    y = (_gathered if b.cell_as_f32 is not None else _masked)(g, b, q, k, v, index_q, keys)
    return y if kv.v_rot is None else g.hadamard(y, kv.v_rot)


def _best(g: GraphContext, b: Blocks, scores: Tensor, visible: Tensor, bias: Tensor) -> Tensor:
    """Choose the best blocks, by the highest score among their visible positions."""
    scores = g.add_in_place(scores, visible)
    highest = g.of("POOL_2D", ((scores.ne[0] - b.size) // b.size + 1, *scores.ne[1:]), scores)
    return g.top_k(g.add(highest, bias), b.n_best)


def _gathered(
    g: GraphContext, b: Blocks, q: Tensor, k: Tensor, v: Tensor, index_q: Tensor, keys: Tensor
) -> Tensor:
    """Attend with one token a stream: gather the keys and values of the chosen blocks side by side."""
    head, groups, n_kv, streams = k.ne
    size, n_pos, slots = keys.ne[0], b.n_pos, b.cell_as_f32
    if slots is None:
        raise Unbuildable("no map from positions to cells")
    found = g.get_rows(g.view(keys, (size, n_kv, streams), keys.nb[2:]), b.cell_of)
    scores = g.mul_mat(
        g.reshape(found, size, n_pos, 1, streams), g.reshape(index_q, size, groups, 1, streams)
    )
    visible, bias = g.reshape(b.visible, n_pos, 1, 1, streams), g.reshape(b.bias, b.n, 1, 1, streams)
    best = _best(g, b, scores, visible, bias)
    count = b.size * b.n_best
    first = g.reshape(g.scale(g.cast(best, F32)), 1, b.n_best, groups, streams)
    at = g.add(g.repeat(first, b.size, b.n_best, groups, streams), g.reshape(g.arange(b.size), b.size, 1, 1))
    at = g.cast(g.reshape(at, count * groups, streams), I32)
    cell = g.reshape(g.get_rows(g.reshape(slots, 1, n_pos, streams), at), b.size, b.n_best, groups, streams)
    cell = g.add(g.scale(cell), g.reshape(g.arange(groups), 1, 1, groups))
    cell = g.cast(g.reshape(cell, count * groups, streams), I32)
    chosen = []
    for t in (k, v):
        rows = g.get_rows(g.view(t, (head, groups * n_kv, streams), (t.nb[1], t.nb[3])), cell)
        rows = g.reshape(rows, head, count, 1, groups * streams)
        wanted = F16 if t.type.is_quantized else t.type
        chosen.append(rows if rows.type is wanted else g.cast(rows, wanted))
    mask = g.get_rows(g.reshape(b.visible, 1, n_pos, streams), at)
    mask = g.cast(g.reshape(mask, count, 1, 1, groups * streams), F16)
    return _flash(g, q, chosen[0], chosen[1], mask, q.ne[1] // groups)


def _masked(
    g: GraphContext, b: Blocks, q: Tensor, k: Tensor, v: Tensor, index_q: Tensor, keys: Tensor
) -> Tensor:
    """Attend with many tokens: each stream with a mask that shows the chosen blocks."""
    head, groups, n_kv, streams = k.ne
    n, whole = b.n_tokens, None
    for s in range(streams):
        mask = _mask(g, b, index_q, keys, s)
        own = g.view(q, (head, q.ne[1], n), q.nb[1:3], s * n * q.nb[2])
        k_s, v_s = (
            g.permute(g.view(t, (head, groups, n_kv, 1), t.nb[1:], s * t.nb[3]), 0, 3, 1, 2) for t in (k, v)
        )
        y = _flash(g, own, k_s, v_s, mask, q.ne[1] // groups)
        whole = y if whole is None else g.concat(whole, y, 1)
    if whole is None:
        raise Unbuildable("a cache without streams")
    return whole


def _mask(g: GraphContext, b: Blocks, index_q: Tensor, keys: Tensor, s: int) -> Tensor:
    """Make the mask of the cells that a stream's tokens see: those of the best blocks, [cells, tokens, 1, groups]."""
    size, groups, n, n_kv, n_pos = keys.ne[0], index_q.ne[1], b.n_tokens, keys.ne[2], b.n_pos
    if b.block_of is None or b.mask is None:
        raise Unbuildable("no map from cells to blocks")
    own = g.view(index_q, (size, groups, n), index_q.nb[1:3], s * n * index_q.nb[2])
    found = g.get_rows(
        g.view(keys, (size, n_kv), keys.nb[2:3], s * keys.nb[3]),
        g.view(b.cell_of, (n_pos,), (), s * b.cell_of.nb[1]),
    )
    scores = g.reshape(g.mul_mat(found, g.reshape(own, size, groups * n)), n_pos, groups, n)
    row, bias_row = b.visible.nb[1], b.bias.nb[1]
    visible = g.view(b.visible, (n_pos, 1, n), (row, row), s * n * row)
    bias = g.view(b.bias, (b.n, 1, n), (bias_row, bias_row), s * n * bias_row)
    best = _best(g, b, scores, visible, bias)
    hidden = g.repeat(g.cast(g.scale(bias), F16), b.n, groups, n, 1)
    shown = g.scale(g.cast(best, F32))
    blocks = g.set_rows(
        g.reshape(hidden, 1, b.n, groups * n),
        g.reshape(shown, 1, b.n_best, groups * n),
        g.reshape(best, b.n_best, groups * n),
    )
    blocks = g.cont(g.permute(g.reshape(blocks, b.n, groups, n), 0, 2, 1, 3))
    turned = g.cont(g.transpose(g.reshape(blocks, b.n, n * groups)))
    cells = g.get_rows(turned, g.view(b.block_of, (n_kv,), (), s * b.block_of.nb[1]))
    cells = g.reshape(g.cont(g.transpose(cells)), n_kv, n, groups)
    seen = g.view(b.mask, (n_kv, n, 1), (b.mask.nb[1], b.mask.nb[3]), s * b.mask.nb[3])
    return g.cast(g.reshape(g.add_in_place(cells, seen), n_kv, n, 1, groups), F16)


def _flash(g: GraphContext, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, share: int) -> Tensor:
    """Append flash attention with the groups of heads, and of one token the streams, side by side."""
    head, n_head, n = q.ne[:3]
    count = k.ne[3]
    q = g.permute(g.reshape(q, head, share, count, n_head * n // (share * count)), 0, 2, 3, 1)
    y = g.permute(g.flash_attn_ext(q, k, v, mask), 0, 1, 3, 2)
    return g.reshape(y if is_contiguous(y) else g.cont(y), head * n_head, n)
