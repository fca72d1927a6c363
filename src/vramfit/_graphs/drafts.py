"""Draft models: they begin with tokens and what a target model says, and end with its vocabulary.

Embeddings and output matrix may be the target's, and a draft without them runs beside it alone: `Unbuildable` here.
Source: models/eagle3.cpp, models/dflash.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

from .._ggml.graph import Tensor
from .._ggml.ops import F32, I32, Unbuildable
from .._llama.model import Home
from .context import GraphContext

__all__ = ["Markov", "draft_logits", "draft_tokens", "markov_head", "own_matrix", "selector", "windowed_sum"]


def draft_tokens(g: GraphContext) -> tuple[Tensor, Tensor]:
    """The tokens, and their embeddings: nothing asks for them yet."""
    tokens = g.tokens = g.input("inp_tokens", I32, g.n_tokens)
    return tokens, g.get_rows(own_matrix(g, "token_embd.weight", Home.INPUT), tokens)


def own_matrix(g: GraphContext, name: str, home: Home) -> Tensor:
    """A matrix that the draft has itself."""
    found = g.at(name, home)
    if found is None:
        raise Unbuildable(f"the draft has no {name} of its own; the engine takes the target model's")
    return found


def draft_logits(g: GraphContext, x: Tensor) -> Tensor:
    """Logits of the target's vocabulary, where those of the draft are fewer."""
    rows = g.w("d2t")
    return x if rows is None else _spread(g, x, rows, g.n_vocab)


def _spread(g: GraphContext, x: Tensor, rows: Tensor, n_vocab: int) -> Tensor:
    n, count = x.ne[:2]
    if rows.type.name != "i64" or rows.ne[0] != n:
        raise Unbuildable(f"{n} tokens of a draft are mapped by {list(rows.ne)} of {rows.type.name}")
    whole = g.fill(g.tensor(F32, 1, n_vocab, count))
    whole = g.set_rows(whole, g.reshape(x, 1, n, count), g.reshape(rows, n, 1, 1))
    return g.reshape(whole, n_vocab, count)


def _blocks(g: GraphContext) -> tuple[int, int]:
    """Sequences, each with a block of tokens to guess, and tokens of a block."""
    if g.n_tokens % g.n_seqs:
        raise Unbuildable(f"{g.n_tokens} tokens in {g.n_seqs} blocks")
    return g.n_seqs, g.n_tokens // g.n_seqs


def windowed_sum(g: GraphContext, x: Tensor, coefficients: Tensor, base: Tensor, side: int) -> Tensor:
    """A short convolution along each block, with weights that depend on the token (build_dflash2_conv)."""
    seqs, size = _blocks(g)
    width, n, kernel, group = x.ne[0], g.n_tokens, g.n("conv_kernel_size"), g.n("conv_group_size")
    if not group or width % group:
        raise Unbuildable(f"{width} channels in groups of {group}")
    groups = width // group
    blocks = g.reshape(x, width, size, seqs)
    both = g.reshape(coefficients, groups, kernel, 2, n)
    own = g.cont(g.view(both, (groups, kernel, n), (both.nb[1], both.nb[3]), side * both.nb[2]))
    own = g.repeat(g.reshape(own, 1, groups, kernel, n), group, groups, kernel, n)
    fixed = g.reshape(g.view(base, (width * kernel,), (), side * base.nb[2]), group, groups, kernel, 1)
    weights, total = g.add(own, fixed), None
    for tap in range(min(kernel, size)):
        values = blocks
        if tap:
            values = g.pad(g.view(blocks, (width, size - tap, seqs), blocks.nb[1:3]), 0, tap)
        values = g.reshape(values, width, n)
        weight = g.view(weights, (group, groups, 1, n), weights.nb[1:], tap * weights.nb[2])
        term = g.mul(g.reshape(g.cont(weight), width, n), values)
        total = term if total is None else g.add(total, term)
    if total is None:
        raise Unbuildable("a convolution over nothing")
    return total


# --- Markov head


@dataclass(frozen=True, slots=True)
class Markov:
    """What a Markov head makes: better logits, and how sure it is of each."""

    logits: Tensor
    sureness: Tensor | None


def markov_head(g: GraphContext, tokens: Tensor, base: Tensor, state: Tensor) -> Markov | None:
    """Logits that each depend on the token before, chosen in the graph; None for more tokens than a block may have."""
    seqs, size = _blocks(g)
    block = g.n("block_size")
    if block <= 0:
        raise Unbuildable("a Markov head needs block_size in the header")
    if size > block:
        return None
    prev = g.cont(g.view(tokens, (1, seqs), (size * tokens.nb[0],)), seqs)
    columns: list[Tensor] = []
    sure: list[Tensor] = []
    asks = g.has("conf_proj.weight")
    stride, first = size * base.nb[1], 0 if g.hp("sample_from_anchor", 1) else 1
    if first:
        columns.append(g.cont(g.view(base, (base.ne[0], seqs), (stride,))))
        if asks:
            sure.append(g.sigmoid(g.cont(g.view(base, (1, seqs), (stride,)))))
    for i in range(first, size):
        last = g.get_rows(g.need("markov_w1.weight"), prev)
        column = g.view(base, (base.ne[0], seqs), (stride,), i * base.nb[1])
        column = g.add(column, _bias(g, last, base.ne[0]))
        columns.append(column)
        if asks:
            sure.append(_sureness(g, state, last, i, size))
        prev = g.argmax(column)
    return Markov(_by_block(g, columns), g.repeat(_by_block(g, sure), *state.ne) if asks else None)


def _bias(g: GraphContext, last: Tensor, n_vocab: int) -> Tensor:
    x, scale, rows = g.mul_mat(g.need("markov_w2.weight"), last), g.w("markov_w2.scale"), g.w("d2t")
    x = x if scale is None else g.mul(x, scale)
    return x if rows is None else _spread(g, x, rows, n_vocab)


def _sureness(g: GraphContext, state: Tensor, last: Tensor, i: int, size: int) -> Tensor:
    own = g.view(state, (state.ne[0], g.n_seqs), (size * state.nb[1],), i * state.nb[1])
    x = g.mul_mat(g.need("conf_proj.weight"), g.concat(g.cont(own), last, 0))
    bias = g.w("conf_proj.bias")
    return g.sigmoid(x if bias is None else g.add(x, bias))


def _by_block(g: GraphContext, columns: list[Tensor]) -> Tensor:
    """Columns by position, put in the order of the batch."""
    seqs, size = _blocks(g)
    if not columns:
        raise Unbuildable("a block of no tokens")
    whole = columns[0]
    for column in columns[1:]:
        whole = g.concat(whole, column, 1)
    n = whole.ne[0]
    whole = g.cont(g.permute(g.reshape(whole, n, seqs, size), 0, 2, 1, 3))
    return g.reshape(whole, n, g.n_tokens)


# --- selector


def selector(g: GraphContext, tokens: Tensor, scores: Tensor, state: Tensor) -> Tensor:
    """The best tokens at each position, and how well each follows each (build_dflash2_selector)."""
    seqs, size = _blocks(g)
    best, rank, width = g.n("selector_top_k"), g.n("selector_rank"), g.n_embd
    found = g.top_k(scores, best)
    alone = g.get_rows(g.reshape(scores, 1, scores.ne[0], g.n_tokens), found)
    alone = g.reshape(alone, best, g.n_tokens)
    gate = g.mul_mat(g.need("selector_hidden.weight"), state)
    cut = [g.reshape(t, n, size, seqs) for t, n in ((found, best), (alone, best), (gate, rank))]
    block, packed = min(size, g.n("block_size")), g.fill(g.tensor(F32, width, 1, seqs))
    if block > 1:
        anchors = g.cont(g.view(tokens, (1, seqs), (size * tokens.nb[0],)), seqs)
        packed = g.concat(packed, _follows(g, cut, 1, 1, anchors), 1)
    if block > 2:
        ids = g.cont(g.view(cut[0], (best, block - 2, seqs), cut[0].nb[1:3], cut[0].nb[1]))
        ids = g.reshape(ids, best * (block - 2) * seqs)
        packed = g.concat(packed, _follows(g, cut, 2, block - 2, ids), 1)
    return g.reshape(packed, width, block * seqs)


def _follows(g: GraphContext, cut: list[Tensor], first: int, n: int, before: Tensor) -> Tensor:
    """Scores of `n` positions, each of whose candidates follows each of `before`."""
    seqs, best, rank = g.n_seqs, g.n("selector_top_k"), g.n("selector_rank")
    found, alone, gate = (g.cont(g.view(t, (t.ne[0], n, seqs), t.nb[1:3], first * t.nb[1])) for t in cut)
    count = before.ne[0] // (n * seqs)
    after = g.get_rows(g.need("selector_successor.weight"), g.reshape(found, best * n * seqs))
    after = g.reshape(after, rank, best, n, seqs)
    prior = g.get_rows(g.need("selector_predecessor.weight"), before)
    prior = g.reshape(prior, rank, count, n, seqs)
    gated = g.mul(prior, g.repeat(g.reshape(gate, rank, 1, n, seqs), *prior.ne))
    score = g.mul_mat(after, gated)
    if count == 1:
        score = g.repeat(score, best, best, n, seqs)
    score = g.add(score, g.repeat(g.reshape(alone, best, 1, n, seqs), *score.ne))
    row = g.concat(g.cast(found, F32), g.reshape(score, best * best, n, seqs), 0)
    return g.pad(row, g.n_embd - best - best * best)
