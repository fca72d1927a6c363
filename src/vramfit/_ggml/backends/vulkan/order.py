"""The order in which Vulkan runs the nodes of a split, and the tensors that its fused groups keep alive.

Groups that a shader fuses stay together; of the other nodes, those that need nothing that has not run yet are gathered into
batches that run side by side. What lies between two nodes that read one tensor grows by that, and so do compute buffers.
Source: `ggml_vk_graph_optimize` (ggml-vulkan.cpp:14663; lines below are of that file) and the patterns of
ggml-vulkan-types.h:505-625. With GGML_VK_DISABLE_GRAPH_OPTIMIZE set, the engine's own order stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from ...graph import NONE, OUTPUT, VIEW_OPS, WEIGHT, Tensor, is_contiguous, param
from ..nouns import Batch, Keep, SplitGraph

__all__ = ["graph_optimize"]

_EMPTY: Final = VIEW_OPS | {"NONE"}
_AHEAD: Final = 20  # NUM_TO_CHECK: nodes that a batch looks at, its first included
_PULL: Final = 15  # nodes behind a node among which its reader is looked for, itself included
_GELU, _SIGMOID, _SILU, _SOFTPLUS = 8, 7, 10, 15  # enum ggml_unary_op
_FUSED_UNARY: Final = frozenset((_GELU, _SIGMOID, _SILU, _SOFTPLUS))  # 9953

Pattern = tuple[str, ...]


def _pattern(text: str) -> Pattern:
    return tuple(text.split())


_NORMALISED: Final = "RESHAPE SUM_ROWS CLAMP DIV RESHAPE"
# Choices of experts: what they read lives until their last node has run, a scale behind them included.
_CHOICES: Final = (
    _pattern(f"SOFT_MAX RESHAPE ARGSORT VIEW GET_ROWS {_NORMALISED}"),
    _pattern(f"UNARY RESHAPE ADD ARGSORT VIEW GET_ROWS {_NORMALISED}"),
    _pattern(f"UNARY SQRT RESHAPE ADD ARGSORT VIEW GET_ROWS {_NORMALISED}"),
    _pattern("SOFT_MAX RESHAPE ARGSORT VIEW GET_ROWS"),
    _pattern("ARGSORT VIEW GET_ROWS RESHAPE SOFT_MAX RESHAPE"),
)
_SPARSE: Final = _pattern("GET_ROWS PERMUTE CONT CPY RESHAPE ADD TOP_K")
_GROUPS: Final = (
    _pattern("MUL SIN SQR MUL ADD"),
    _SPARSE,
    _pattern("RMS_NORM MUL ADD MUL"),
    _pattern("RMS_NORM MUL ADD"),
    _pattern("RMS_NORM MUL ROPE VIEW SET_ROWS"),
    _pattern("RMS_NORM VIEW SET_ROWS"),
    _pattern("ROPE VIEW SET_ROWS"),
)
_GATE: Final = _pattern("SCALE UNARY SCALE DSV4_HC_POST")  # keeps what it reads alive, too

# A reader may join the batch of the node that it reads, if that is the last of it: these pairs are fused (14868-14876).
_WITH_GAPS: Final = frozenset(
    (("RMS_NORM", "MUL"), ("UNARY", "MUL"))
)  # views or nodes that ran may lie between
_NEXT: Final = frozenset(
    (
        ("MUL_MAT", "ADD"),
        ("MUL_MAT_ID", "ADD_ID"),
        ("MUL_MAT_ID", "MUL"),
        ("ADD", "ADD"),
        ("SSM_CONV", "ADD"),
        ("SSM_CONV", "UNARY"),
    )
)


def graph_optimize(g: SplitGraph, keep: Keep) -> list[Batch]:
    """The nodes of a split in the order in which they run, batch by batch; `keep` hears what lives until when."""
    return _Ordering(g, keep).run()


class _Ordering:
    """The state of one reordering. Positions count from the start of the split."""

    def __init__(self, g: SplitGraph, keep: Keep) -> None:
        tensors = g.tensors
        self.g = g
        self.keep = keep
        self.nodes = g.nodes[g.start : g.end]
        self.n = len(self.nodes)
        self.op = [tensors[i].op for i in self.nodes]
        self.empty = [op in _EMPTY for op in self.op]
        self.src = [g.sources[i] for i in self.nodes]
        self.base = [_base(tensors, i) for i in self.nodes]
        self.reads = [frozenset([_base(tensors, s) for s in src]) for src in self.src]
        self.used = [False] * self.n
        self.done: set[int] = set()
        self.first = 0  # the first node that has no place yet
        self.out: list[Batch] = []

    def run(self) -> list[Batch]:
        """Place all nodes."""
        while self.first < self.n:
            group = self._group()
            self._push(group or self._with_views(self._batch()))
        return self.out

    def _push(self, positions: Sequence[int]) -> None:
        for p in positions:
            self.used[p] = True
        placed = [self.nodes[p] for p in positions]
        self.done.update(placed)
        self.out.append(placed)
        while self.first < self.n and self.used[self.first]:
            self.first += 1

    # --- groups that stay together

    def _matches(self, pattern: Pattern, start: int) -> bool:
        end = start + len(pattern)
        return (
            end <= self.n
            and self.op[start] == pattern[0]
            and tuple(self.op[start:end]) == pattern
            and not any(self.used[start:end])
        )

    def _group(self) -> range | None:
        """The fused group that starts at the first node without a place (14781-14824)."""
        for pattern in (*_CHOICES, *_GROUPS, _GATE):
            if not self._matches(pattern, self.first):
                continue
            found = range(self.first, self.first + len(pattern))
            if pattern in _CHOICES:
                scaled = found.stop < self.n and self.op[found.stop] == "SCALE"
                self._keep_inputs(found, found.stop if scaled else found.stop - 1)
            elif pattern is _GATE:
                self._keep_inputs(found, found.stop - 1)
            return found
        return None

    def _keep_inputs(self, group: range, last: int) -> None:
        """Keep alive what a group reads from outside (14748)."""
        seen: set[int] = set()
        for p in group:
            for s in self.src[p]:
                if s not in seen:
                    self.keep(s, self.nodes[last])
            seen.update(self.src[p], (self.nodes[p],))

    def _in_group(self, p: int) -> bool:
        """Whether a group starts at `p`, or holds it, for the one that must not be cut anywhere."""
        if any(self._matches(pattern, p) for pattern in (*_CHOICES, *_GROUPS, _GATE)):
            return True
        return any(p >= o and self._matches(_SPARSE, p - o) for o in range(1, len(_SPARSE)))

    # --- batches

    def _is_source(self, reader: int, made: int) -> bool:
        """Whether one node must stay behind another: it reads it, or both touch one memory (14675)."""
        if self.nodes[made] in self.src[reader] or self.base[reader] == self.base[made]:
            return True
        if self.empty[reader] or self.empty[made]:
            return False
        return self.base[made] in self.reads[reader] or self.base[reader] in self.reads[made]

    def _batch(self) -> list[int]:
        """The first node, and nodes ahead that need nothing without a place (14826-15007)."""
        batch = [self.first]
        waiting = [self.first]  # nodes without a place that lie before the one looked at
        for j in range(self.first + 1, min(self.first + _AHEAD, self.n)):
            if self.used[j]:
                continue
            if not self.empty[j] and not self._in_group(j) and self._is_free(j, waiting, batch[-1]):
                batch.append(j)
                self._pull(j, batch)
            waiting.append(j)
        return batch

    def _is_free(self, j: int, waiting: Iterable[int], last: int) -> bool:
        return all(not self._is_source(j, c) or (c == last and self._fuses(c, j)) for c in waiting)

    def _fuses(self, c: int, j: int) -> bool:
        pair = (self.op[c], self.op[j])
        if pair in _WITH_GAPS:
            return all(self.used[v] or self.empty[v] for v in range(c + 1, j))
        return j == c + 1 and pair in _NEXT

    def _with_views(self, batch: list[int]) -> list[int]:
        """A batch with the views of what has run or is in it; not behind an addition, which would be cut off (15010)."""
        if self.op[batch[-1]] == "ADD":
            return batch
        members = set(batch)
        for j in range(self.first + 1, min(self.first + _AHEAD, self.n)):
            if self.used[j] or not self.empty[j]:
                continue
            before = (c for c in range(self.first, j) if not self.used[c] and c not in members)
            if not any(self._is_source(j, c) for c in before):
                batch.append(j)
                members.add(j)
        return batch

    # --- readers that are pulled forward behind what they are fused with

    def _pull(self, j: int, batch: list[int]) -> None:
        """Append to a batch, behind its new node, what completes a fused group with it."""
        op, before = self.op[j], self.op[j - 1]
        rotated = j
        if op == "MUL" and before == "RMS_NORM":
            rotated = self._take(batch, self._reader(j, "ROPE", self._is_rope)) or j
        if self.op[rotated] in ("ROPE", "RMS_NORM"):
            for p in self._stored(rotated):
                self._take(batch, p)
        if (op == "ADD_ID" and before == "MUL_MAT_ID") or (op == "ADD" and before == "MUL_MAT"):
            self._take(batch, self._reader(j, "MUL" if op == "ADD_ID" else "ADD", self._second_is_ready))
        if op == "ADD" and before == "SSM_CONV":
            self._take(batch, self._reader(j, "UNARY", lambda k: True))
        if op == "UNARY":
            self._take(batch, self._product(j))

    def _take(self, batch: list[int], p: int) -> int:
        """Append position `p`, unless it is 0: no reader is the first node."""
        if p:
            batch.append(p)
            self.used[p] = True
        return p

    def _reader(self, j: int, op: str, condition: Callable[[int], bool]) -> int:
        """The position of the first such operation ahead on the result of node `j`; 0 if there is none."""
        for k in range(j + 1, min(j + _PULL, self.n)):
            if self.op[k] == op and self.src[k][0] == self.nodes[j] and condition(k):
                return k
        return 0

    def _is_leaf(self, i: int) -> bool:
        return self.g.tensors[i].op == "NONE"

    def _ready(self, i: int) -> bool:
        return self._is_leaf(i) or i in self.done

    def _second_is_ready(self, k: int) -> bool:
        return self._ready(self.src[k][1])

    def _is_rope(self, k: int) -> bool:
        return all(self._is_leaf(s) for s in self.src[k][1:3])

    def _product(self, j: int) -> int:
        """The position of the product ahead that is fused with the unary operation at `j` (14987); 0 if there is none."""
        made = self.nodes[j]
        for k in range(j + 1, min(j + _PULL, self.n)):
            if self.op[k] != "MUL" or made not in self.src[k][:2]:
                continue
            first, second = self.src[k][:2]
            other = second if first == made else first
            if self._ready(other) and self._fuses_unary(j, k, other):
                return k
        return 0

    def _fuses_unary(self, j: int, k: int, other: int) -> bool:
        """Whether there is a shader for a unary operation times something (13422)."""
        tensors = self.g.tensors
        unary, product, a = tensors[self.nodes[j]], tensors[self.nodes[k]], tensors[other]
        if param(unary, 0) not in _FUSED_UNARY or unary.type.name not in ("f32", "f16"):
            return False
        if unary.type is not product.type or a.type is not unary.type:
            return False
        if not is_contiguous(a, 1) or not is_contiguous(tensors[self.src[j][0]], 1):
            return False
        return _repeats(a, unary) if self.src[k][0] == self.nodes[j] else _repeats(unary, a)

    def _stored(self, made: int) -> tuple[int, ...]:
        """Positions of the view and the store of a node's result in a cache, where they can follow it (14919-14952)."""
        view = 0
        for k in range(made + 1, min(made + _PULL, self.n)):
            if self.used[k]:
                continue
            if not view:
                view = k if self.op[k] == "VIEW" and self.src[k][0] == self.nodes[made] else 0
            elif self.op[k] == "SET_ROWS" and self.src[k][0] == self.nodes[view]:
                return (view, k) if self._can_pull(made, view, k) else ()
        return ()

    def _can_pull(self, made: int, view: int, store: int) -> bool:
        if not self._is_private(made, (made,), view) or not self._is_private(view, (made, view), store):
            return False
        between = (c for c in range(made + 1, store) if not self.used[c] and c != view and not self.empty[c])
        return not any(self._is_source(store, c) for c in between)

    def _is_private(self, p: int, group: tuple[int, ...], reader: int) -> bool:
        """Whether one node alone reads the node at `p`, and it views nothing outside its group (ggml.c:7769)."""
        i = self.nodes[p]
        t = self.g.tensors[i]
        if t.flags & OUTPUT or self.src[reader].count(i) != self.g.uses(i):
            return False
        root = t.view
        return root == NONE or root in [self.nodes[q] for q in group] or self.g.tensors[root].usage == WEIGHT


def _base(tensors: Sequence[Tensor], i: int) -> int:
    """The tensor whose memory it is."""
    root = tensors[i].view
    return i if root == NONE else root


def _repeats(a: Tensor, b: Tensor) -> bool:
    """Whether `a` tiles into `b` (ggml_can_repeat)."""
    return all(n and not m % n for n, m in zip(a.ne, b.ne, strict=True))
