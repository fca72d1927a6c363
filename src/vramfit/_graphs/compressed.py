"""Append attention over compressed caches: keys of a window, and keys that stand for several tokens each (DeepSeek V4).

What a batch adds waits as a state until it can be compressed. Keys are values, too.
In: a `GraphContext`, the input of a layer. Out: attention over the window and what is compressed.
Source: `build_inp_dsv4` (llama-graph.cpp:3485), models/deepseek4.cpp, llama-kv-cache-dsv4.cpp:842 (how many of each).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .._ggml.graph import Tensor
from .._ggml.ops import F16, F32, I32, I64, Unbuildable
from .._ggml.types import TensorType
from .attention import Scoring, cached_k, mask_type, mha, n_kv, store_k
from .context import GraphContext
from .indexer import (
    index_scores,
    indexer_rotation,
    keep_best,
    queries_by_stream,
    top_cells,
    weights_by_stream,
)
from .parts import norm, product

__all__ = ["Caches", "Compressor", "attend_compressed", "best_keys", "caches", "compress"]

CSA = 4  # tokens that a key of the overlapping kind stands for; the other kind is "hca"


@dataclass(frozen=True, slots=True)
class Compressor:
    """The inputs of one kind of compressed keys (llm_graph_input_dsv4::comp_input)."""

    kind: str  # of its cache
    ratio: int
    pos: Tensor  # of each token, within what will be compressed
    kept_from: Tensor  # which tokens wait, and where
    kept_to: Tensor
    back: (
        tuple[Tensor, Tensor] | None
    )  # which earlier states are gone back to, and where; None where none are kept
    aside: tuple[Tensor, Tensor] | None  # which rows are put aside to go back to, and where
    read: Tensor  # which rows make the new keys
    write: Tensor  # where the new keys go, and their positions
    write_pos: Tensor
    mask: Tensor
    rot: Tensor | None

    @property
    def overlap(self) -> int:
        """Number of blocks of tokens that a key is made of."""
        return 2 if self.ratio == CSA else 1


@dataclass(frozen=True, slots=True)
class Caches:
    """The inputs of all caches; None where no layer has such a cache."""

    k_idxs: Tensor
    mask: Tensor
    rot: Tensor | None
    of: Mapping[str, Compressor]  # by kind


def caches(g: GraphContext) -> Caches:
    """Append the inputs of all caches."""
    layers = list(g.model.layers)
    found = {x.kind: x.ratio for layer in layers for x in layer.caches if x.kind != "kv"}
    made = {kind: _compressor(g, kind, ratio) for kind, ratio in found.items()}
    k_idxs = g.input("attn_inp_k_idxs", I64, g.n_tokens)
    return Caches(k_idxs, _mask(g, n_kv(g, layers), mask_type(g)), _rotation(g), MappingProxyType(made))


def _rotation(g: GraphContext) -> Tensor | None:
    """Append the matrix that rotates keys: of quantized caches, or of heads as long as an indexer's (llama-kv-cache.cpp:321-332)."""
    head, n = g.head_k(), 64
    quantized = g.context.type_k.is_quantized and head % n == 0
    if not quantized and head != g.n("attention.indexer.key_length"):
        return None
    while not head % (2 * n):
        n *= 2
    return g.input("attn_inp_k_rot", F32, n, n)


def _mask(g: GraphContext, n_cells: int, type_: TensorType) -> Tensor:
    """Append a mask; every sequence has a stream of its own, whatever the context says."""
    n = g.n_seqs if g.context.n_seq_max > 1 else 1
    return g.input("attn_inp_kq_mask", type_, n_cells, g.n_tokens // n, 1, n)


def _compressor(g: GraphContext, kind: str, ratio: int) -> Compressor:
    """Append the inputs of one kind: as many blocks as a batch can fill, however it is split into sequences."""
    blocks, overlap = g.n_tokens // ratio + max(1, g.n_seqs), 2 if ratio == CSA else 1
    waiting = overlap * ratio * g.context.n_seq_max
    kept, n_back = min(g.n_tokens, waiting), g.context.n_rs_seq
    indexes = kind == "indexer"
    type_ = F16 if indexes else mask_type(g)
    return Compressor(
        kind,
        ratio,
        g.input(f"dsv4_{kind}_state_pos", I32, g.n_tokens),
        g.input(f"dsv4_{kind}_state_persist_src_idxs", I32, kept),
        g.input(f"dsv4_{kind}_state_persist_dst_idxs", I32, kept),
        _moves(g, f"dsv4_{kind}_state_restore", waiting) if n_back else None,
        _moves(g, f"dsv4_{kind}_state_snapshot", n_back * waiting) if n_back else None,
        g.input(f"dsv4_{kind}_state_read_idxs", I32, overlap * ratio * blocks),
        g.input(f"dsv4_{kind}_state_write_idxs", I64, blocks),
        g.input(f"dsv4_{kind}_state_write_pos", I32, blocks),
        _mask(g, n_kv(g, list(g.model.layers), kind), type_),
        indexer_rotation(g) if indexes else _rotation(g),
    )


def _moves(g: GraphContext, name: str, n: int) -> tuple[Tensor, Tensor]:
    return g.input(f"{name}_src_idxs", I32, n), g.input(f"{name}_dst_idxs", I32, n)


def compress(
    g: GraphContext, c: Compressor, x: Tensor, name: str, il: int, states: tuple[int, int], head: int
) -> None:
    """Make new keys of what waits and of the batch, store them, and keep what has to wait on.

    `name` is the prefix of the weights, `states` are the layer's states of keys and of scores.
    """
    width = head * c.overlap
    kv = product(g, x, f"{name}_kv", il=il)
    score = g.add(product(g, x, f"{name}_gate", il=il), g.get_rows(g.need(f"{name}_ape.weight", il), c.pos))
    before = [_before(g, c, il, i, width) for i in states]
    both = [_joined(g, c, x, t) for x, t in zip(before, (kv, score), strict=True)]
    made = (_blocks if c.overlap == 1 else _overlapping)(g, c, both[0], both[1], head)
    key = g.rope(norm(g, made, f"{name}_norm", il), c.write_pos)
    key = key if c.rot is None else g.hadamard(key, c.rot)
    g.expand(store_k(g, key, c.write, il, c.kind))
    if c.aside is not None:
        for whole, t, i in zip(before, (kv, score), states, strict=True):
            rows = g.get_rows(g.concat(whole, t, 1), c.aside[0])
            g.expand(g.set_rows(_waiting(g, il, i, width), rows, c.aside[1]))
    for t, i in zip((kv, score), states, strict=True):
        rows = g.get_rows(t, c.kept_from)
        g.expand(g.set_rows(_waiting(g, il, i, width), rows, c.kept_to))


def _waiting(g: GraphContext, il: int, which: int, width: int) -> Tensor:
    state = g.state(il, which, width)
    return g.view(state, (width, state.ne[1] * state.ne[2]), state.nb[1:2])


def _before(g: GraphContext, c: Compressor, il: int, which: int, width: int) -> Tensor:
    """View what waits, and behind it what can be gone back to, which a sequence may first do (dsv4_build_state_restore)."""
    waiting = _waiting(g, il, which, width)
    if c.back is None:
        return waiting
    return g.set_rows(_waiting(g, il, which, width), g.get_rows(waiting, c.back[0]), c.back[1])


def _joined(g: GraphContext, c: Compressor, before: Tensor, t: Tensor) -> Tensor:
    """Join what waits and the batch."""
    rows = c.overlap * c.ratio * g.context.n_seq_max
    return g.concat(g.view(before, (before.ne[0], rows), before.nb[1:2]), t, 1)


def _blocks(g: GraphContext, c: Compressor, kv: Tensor, score: Tensor, head: int) -> Tensor:
    """Compress each block of tokens to a key."""
    n = c.write.ne[0]
    values, scores = (g.reshape(g.get_rows(t, c.read), head, c.ratio, n) for t in (kv, score))
    return _mean(g, values, scores)


def _overlapping(g: GraphContext, c: Compressor, kv: Tensor, score: Tensor, head: int) -> Tensor:
    """Compress each block of tokens and the one before it, which have a half of each row each, to a key."""
    n = c.write.ne[0]
    read, joined = c.ratio * n, []
    for t in (kv, score):
        last = g.reshape(g.scale(g.view(t, (t.ne[0],))), t.ne[0], 1)
        rows = g.get_rows(g.concat(t, last, 1), c.read)
        halves = [
            g.reshape(g.cont(g.view(rows, (head, read), rows.nb[1:2], at)), head, c.ratio, n)
            for at in (0, read * rows.nb[1] + head * rows.nb[0])
        ]
        joined.append(g.concat(halves[0], halves[1], 1))
    return _mean(g, joined[0], joined[1])


def _mean(g: GraphContext, values: Tensor, scores: Tensor) -> Tensor:
    """Average the tokens of a block, weighed by their scores: [head, 1, blocks]."""
    values, scores = (g.cont(g.permute(t, 1, 0, 2, 3)) for t in (values, scores))
    return g.cont(g.permute(g.sum_rows(g.mul(values, g.soft_max(scores))), 1, 0, 2, 3))


def best_keys(g: GraphContext, c: Compressor, x: Tensor, row: Tensor, pos: Tensor, il: int) -> Tensor:
    """Choose the best compressed keys for each token. `row`: what queries are made of."""
    head, n_head = g.n("attention.indexer.key_length"), g.n("attention.indexer.head_count")
    if c.rot is None:
        raise Unbuildable("an indexer without a rotation")
    q = g.rope(g.reshape(product(g, row, "indexer.attn_q_b", il=il), head, n_head, g.n_tokens), pos)
    q = g.hadamard(q, c.rot)
    k = cached_k(g, il, c.kind)
    k = g.view(k, k.ne, k.nb[1:])
    weights = weights_by_stream(g, g.scale(product(g, x, "indexer.proj", il=il)), k.ne[3])
    return top_cells(g, index_scores(g, queries_by_stream(g, q, k.ne[3]), k, weights, c.mask, il))


def attend_compressed(
    g: GraphContext,
    x: Caches,
    q: Tensor,
    key: Tensor,
    il: int,
    kind: str | None,
    best: Tensor | None,
    sinks: Tensor,
) -> Tensor:
    """Append attention over the window, and over the compressed keys of a kind: all of them, or the best."""
    if x.rot is not None:
        q, key = g.hadamard(q, x.rot), g.hadamard(key, x.rot)
    g.expand(q)
    g.expand(key)
    g.expand(store_k(g, key, x.k_idxs, il))
    k, mask = cached_k(g, il), x.mask
    if kind is not None:
        more = cached_k(g, il, kind)
        k = g.concat(k, g.view(more, more.ne, more.nb[1:]), 2)
        seen = x.of[kind].mask
        seen = seen if best is None else keep_best(g, seen, best, mask_type(g))
        mask = g.concat(mask, seen, 0)
    y = mha(g, q, k, k, Scoring(il, mask, sinks=sinks))
    return y if x.rot is None else g.hadamard(y, x.rot)
