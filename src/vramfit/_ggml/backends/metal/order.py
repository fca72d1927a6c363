"""The order in which Metal runs the nodes of a split, and the tensors that its fused groups keep alive.

Nodes that are fused stay together. Where a group cannot run beside those before it, others from behind it that can are
taken first. Source: `ggml_graph_optimize` (ggml-metal-common.cpp:444), `ggml_metal_graph_optimize_reorder` (:249),
the table of fusions (ggml-metal-fusion.cpp:640-740) and what keeps their inputs alive (:770).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

from ...graph import NONE, VIEW_OPS, Tensor, is_contiguous, is_contiguous_rows, param
from ..nouns import Batch, Keep, SplitGraph, can_fuse

__all__ = ["graph_optimize"]

_EMPTY: Final = VIEW_OPS | {"NONE"}
_MOST: Final = 16  # GGML_METAL_FUSION_MAX: nodes of a group
_AHEAD: Final = 64  # N_FORWARD: groups that are looked at
_EXPERTS: Final = 1024  # GGML_METAL_TOPK_MOE_MAX_EXPERTS
_SILU: Final = 10  # enum ggml_unary_op
_MOVABLE: Final = _EMPTY | frozenset(
    [
        "MUL_MAT",
        "MUL_MAT_ID",
        "ROPE",
        "NORM",
        "RMS_NORM",
        "GROUP_NORM",
        "L2_NORM",
        "SUM_ROWS",
        "SSM_CONV",
        "SSM_SCAN",
        "CLAMP",
        "TRI",
        "DIAG",
        "MUL",
        "ADD",
        "SUB",
        "DIV",
        "GLU",
        "SCALE",
        "UNARY",
        "GET_ROWS",
        "SET_ROWS",
        "SET",
        "CPY",
        "CONT",
        "REPEAT",
    ]
)

Pattern = tuple[str, ...]


def _pattern(text: str) -> Pattern:
    return tuple(text.split())


_CHOICE: Final = "SOFT_MAX RESHAPE ARGSORT VIEW GET_ROWS"
_NORMALISED: Final = f"{_CHOICE} RESHAPE SUM_ROWS CLAMP DIV RESHAPE"
_NORMS: Final = tuple(
    _pattern(f"{norm} {rest}") for norm in ("NORM", "RMS_NORM") for rest in ("MUL", "MUL ADD", "SCALE")
)
_SUMS: Final = tuple(("ADD",) * n for n in range(2, 8))
_SNAKE: Final = _pattern("MUL SIN SQR MUL ADD")
_DELTA: Final = _pattern("GATED_DELTA_NET CPY")
_CHOICES: Final = tuple(map(_pattern, (_CHOICE, f"{_CHOICE} SCALE", _NORMALISED, f"{_NORMALISED} SCALE")))
_EXPERT_SUMS: Final = tuple(("MUL", *("VIEW",) * n, *("ADD",) * (n - 1)) for n in range(2, 9))
_CONV: Final = _pattern("SSM_CONV UNARY")
_TABLE: Final = (*_NORMS, *_SUMS, _SNAKE, _DELTA, *_CHOICES, *_EXPERT_SUMS, _CONV)
_WORK: Final = {p: tuple(op for op in p if op not in _EMPTY) for p in _TABLE}


def graph_optimize(g: SplitGraph, keep: Keep) -> list[Batch]:
    """The nodes of a split in the order in which they run, group by group; `keep` hears what lives until when."""
    _keep_inputs(g, keep)
    groups = _Groups(g)
    return [[g.nodes[p] for p in group] for group in _reordered(g, groups.found())]


# --- what stays alive


def _keep_inputs(g: SplitGraph, keep: Keep) -> None:
    """Keep alive what a stretch of nodes that looks like a fusion reads from outside, until its last node has run."""
    at = g.start
    while at < g.end:
        best = max((p for p in _TABLE if _looks_like(g, at, p)), key=len, default=())
        if best:
            seen: set[int] = set()
            for p in range(at, at + len(best)):
                for s in g.src(p):
                    if s not in seen:
                        keep(s, g.nodes[at + len(best) - 1])
                seen.update(g.src(p), (g.nodes[p],))
        at += len(best) or 1


def _looks_like(g: SplitGraph, at: int, pattern: Pattern) -> bool:
    return at + len(pattern) <= g.end and all(g.op(at + i) == op for i, op in enumerate(pattern))


# --- groups


class _Groups:
    """Finds the fused groups of a split. Positions are those of the whole graph."""

    def __init__(self, g: SplitGraph) -> None:
        self.g = g
        self.work = [p for p in range(g.start, g.end) if g.op(p) not in _EMPTY]

    def found(self) -> list[range]:
        """All nodes, group by group."""
        g, groups, k = self.g, [], 0
        at = g.start
        while at < g.end:
            while k < len(self.work) and self.work[k] < at:
                k += 1
            length = self._length(k) if k < len(self.work) and self.work[k] == at else 1
            groups.append(range(at, at + length))
            at += length
        return groups

    def _length(self, k: int) -> int:
        """How many nodes the fusions that start at the k-th node with work take, one behind the other (1091)."""
        first, total = k, 0
        limit = min(first + _MOST, len(self.work))
        while k < limit:
            n = self._longest(k, limit)
            if n == 1 or total + n > _MOST:
                break
            total += n
            k += n
        return min(_MOST, self.work[k - 1] - self.work[first] + 1) if k > first else 1

    def _longest(self, k: int, limit: int) -> int:
        best = 1
        for pattern in _TABLE:
            ops = _WORK[pattern]
            if len(ops) <= best or k + len(ops) > limit:
                continue
            at = self.work[k : k + len(ops)]
            if all(self.g.op(p) == op for p, op in zip(at, ops, strict=True)) and self._fuses(pattern, at):
                best = len(ops)
        return best

    def _fuses(self, pattern: Pattern, at: Sequence[int]) -> bool:
        if pattern in _CHOICES:
            return self._chooses(pattern, at)
        if pattern in _EXPERT_SUMS:
            return self._sums_experts(pattern, at)
        if pattern is _DELTA:
            return self._stores_state(*at)
        g = self.g
        for a, b in pairwise(at):
            if g.nodes[a] not in g.src(b)[:2] or g.at(a).ne != g.at(b).ne:
                return False
        if not can_fuse(g, at, (at[-1],)):
            return False
        if pattern in _SUMS:
            return all(g.reads(b, 0, a) and self._alike(a, b) for a, b in pairwise(at))
        if pattern is _CONV:
            return param(g.at(at[1]), 0) == _SILU and g.at(at[1]).type.name == "f32"
        return pattern is _SNAKE or self._is_norm(at)

    def _alike(self, a: int, b: int) -> bool:
        """Whether two additions add tensors of one layout."""
        one, two = (self.g.tensors[self.g.src(p)[1]] for p in (a, b))
        return one.type is two.type and (one.ne, one.nb) == (two.ne, two.nb)

    def _is_norm(self, at: Sequence[int]) -> bool:
        g = self.g
        for a, b in pairwise(at):
            if not g.reads(b, 0, a) or g.at(b).type.name != "f32":
                return False
            if g.op(b) != "SCALE":
                w = g.tensors[g.src(b)[1]]
                if w.ne[0] != g.at(at[0]).ne[0] or not is_contiguous_rows(w):
                    return False
        return True

    def _stores_state(self, net: int, copy: int) -> bool:
        """A state that is copied from the net's own result to the cache (ggml-metal-fusion.cpp:229)."""
        g = self.g
        tail, to = (g.tensors[s] for s in g.src(copy)[:2])
        v = g.tensors[g.src(net)[2]].ne
        written = min(v[2], param(g.at(net), 0) or 1)
        state = v[0] * v[0] * v[1]
        return (
            tail.op == "VIEW"
            and tail.view == g.nodes[net]
            and tail.offset == 4 * v[0] * v[1] * v[2] * v[3]
            and is_contiguous(tail)
            and to.type.name == "f32"
            and to.ne == (state, v[3], written, 1)
            and to.nb[:2] == (4, 4 * state)
        )

    def _chooses(self, pattern: Pattern, at: Sequence[int]) -> bool:
        """A choice of experts by a plain softmax; the reshape behind its last node belongs to it (ggml-metal-fusion.cpp:352)."""
        g, first = self.g, at[0]
        last = at[-1] + (pattern[-1] == "RESHAPE")
        if last - first + 1 != len(pattern) or last >= g.end or not _looks_like(g, first, pattern):
            return False
        logits, ids = g.tensors[g.src(first)[0]], g.at(first + 3)
        if (
            len(g.src(first)) > 1
            or param(g.at(first), 1)
            or logits.ne[0] > _EXPERTS
            or not is_contiguous(logits)
        ):
            return False
        chain: tuple[tuple[int, int, int], ...] = ((1, 0, 0), (2, 0, 0), (3, 0, 2), (4, 0, 1), (4, 1, 3))
        if len(pattern) > 6:
            chain += ((5, 0, 4), (6, 0, 5), (7, 0, 6), (8, 0, 5), (8, 1, 7), (9, 0, 8))
        if pattern[-1] == "SCALE":
            chain += ((len(pattern) - 1, 0, len(pattern) - 2),)
        if not all(g.reads(first + p, s, first + made) for p, s, made in chain):
            return False
        return ids.nb[1] == 4 * logits.ne[0] and can_fuse(g, range(first, last + 1), (first + 3, last))

    def _sums_experts(self, pattern: Pattern, at: Sequence[int]) -> bool:
        """Two to eight experts times their weights, a view of each, and their sum (ggml-metal-fusion.cpp:494)."""
        g, first, n = self.g, at[0], len(pattern) // 2
        last = first + len(pattern) - 1
        if at[-1] != last or not _looks_like(g, first, pattern):
            return False
        experts, weights = (g.tensors[s] for s in g.src(first)[:2])
        if experts.ne[1] != n or weights.ne[:2] != (1, n) or not all(map(is_contiguous, (experts, weights))):
            return False
        if not all(g.reads(first + i, 0, first) for i in range(1, n + 1)):
            return False
        total = first + 1
        for i in range(1, n):
            add = first + n + i
            if not g.reads(add, 0, total) or not g.reads(add, 1, first + 1 + i):
                return False
            total = add
        return can_fuse(g, range(first, last + 1), (last,))


# --- the order


class _Touched:
    """The memory that a set of groups reads and writes: the tensors that own it."""

    def __init__(self) -> None:
        self.read: set[int] = set()
        self.written: set[int] = set()

    def add(self, read: Iterable[int], written: Iterable[int]) -> None:
        self.read.update(read)
        self.written.update(written)

    def is_free(self, read: frozenset[int], written: frozenset[int]) -> bool:
        return (
            self.written.isdisjoint(read)
            and self.written.isdisjoint(written)
            and self.read.isdisjoint(written)
        )


def _reordered(g: SplitGraph, groups: Sequence[range]) -> list[range]:
    """Groups that can run beside those before them are taken from behind one that cannot (249-440)."""
    touched = [_touches(g, group) for group in groups]
    empty = [g.op(group[0]) in _EMPTY for group in groups]
    used = [False] * len(groups)
    order: list[range] = []
    running = _Touched()
    for i, group in enumerate(groups):
        if used[i]:
            continue
        if not empty[i] and not running.is_free(*touched[i]):
            waiting = _Touched()
            waiting.add(*touched[i])
            for j in range(i + 1, min(i + _AHEAD, len(groups))):
                if used[j]:
                    continue
                if g.op(groups[j][0]) not in _MOVABLE:
                    break
                if (empty[j] or running.is_free(*touched[j])) and waiting.is_free(*touched[j]):
                    running.add(*touched[j])
                    order.append(groups[j])
                    used[j] = True
                else:
                    waiting.add(*touched[j])
            running = _Touched()
        running.add(*touched[i])
        order.append(group)
    return order


def _touches(g: SplitGraph, group: range) -> tuple[frozenset[int], frozenset[int]]:
    inside = {g.nodes[p] for p in group}
    read = [_base(g.tensors, s) for p in group for s in g.src(p) if s not in inside]
    return frozenset(read), frozenset([_base(g.tensors, i) for i in inside])


def _base(tensors: Sequence[Tensor], i: int) -> int:
    root = tensors[i].view
    return i if root == NONE else root
