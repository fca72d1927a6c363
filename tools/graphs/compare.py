"""Two graphs → their first difference, and both sides' listing around it.

In: graphs in the library's nouns. Nodes are compared in order: operation, type, extents, strides, sources and
root of a view (by position), offset, flags, pin, and the parameters that a backend's rule reads. Leafs are
compared by role when a node first reads them: a weight by its name and home, a cache by its layout and home, an
input by its place among the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from vramfit._ggml.graph import CACHE, COMPUTE, INPUT, NONE, OUTPUT, WEIGHT, Graph, Tensor, param
from vramfit._graphs import Instance

__all__ = ["MARKS", "Difference", "asked", "first_difference", "inputs", "layer_difference", "listing"]

MARKS: Final = INPUT | OUTPUT
_BEFORE: Final = 9  # a source that is not of the layer: less than zero, by what its buffer is for
_CONTEXT: Final = 6  # nodes before the difference that are shown

# What a rule of a backend asks of the parameters of an operation: (word, question).
_ASKED: Final[dict[str, tuple[int, Callable[[int], bool]]]] = {
    "MUL_MAT": (1, lambda x: x == 1),  # a Hadamard transform
    "MUL_MAT_ID": (3, lambda x: x == 10),  # the input stays f32
    "FLASH_ATTN_EXT": (1, bool),  # a bias by position
    "SSM_SCAN": (0, lambda x: x > 1),  # states that are kept
}


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where two graphs differ.

    `ours` and `theirs` are positions in `Graph.tensors`, `NONE` where a graph has ended; `order` says whether
    they are among the inputs ("input") or the nodes ("node"), and `number` which.
    """

    order: str
    number: int
    what: str
    ours: int = NONE
    theirs: int = NONE

    def __str__(self) -> str:
        return f"{self.order} {self.number}: {self.what}"


def first_difference(ours: Graph, theirs: Graph, pins: bool = True) -> Difference | None:
    """Where `ours` first differs from `theirs`; None where they are the same graph.

    Without `pins` the backends that nodes are pinned to are not compared: with one backend they decide nothing.
    """
    return _Comparison(ours, theirs, pins).first()


class _Comparison:
    """Which tensor of one graph is which of the other, as far as is known."""

    def __init__(self, ours: Graph, theirs: Graph, pins: bool) -> None:
        self.a, self.b = ours, theirs
        self.pins = pins
        self.match = [NONE] * len(ours.tensors)
        self.back = [NONE] * len(theirs.tensors)

    def first(self) -> Difference | None:
        return self._pair("input", inputs(self.a), inputs(self.b), self._input) or self._pair(
            "node", self.a.nodes, self.b.nodes, self._node
        )

    def _pair(
        self, order: str, ours: Sequence[int], theirs: Sequence[int], compare: Callable[[int, int], str]
    ) -> Difference | None:
        for number, (i, j) in enumerate(zip(ours, theirs, strict=False)):
            self.match[i], self.back[j] = j, i
            if what := compare(i, j):
                return Difference(order, number, what, i, j)
        n, m = len(ours), len(theirs)
        if n == m:
            return None
        at = min(n, m)
        what = f"{n} {order}s, the engine has {m}"
        return Difference(order, at, what, ours[at] if at < n else NONE, theirs[at] if at < m else NONE)

    def _input(self, i: int, j: int) -> str:
        t, d = self.a.tensors[i], self.b.tensors[j]
        return _layout(t, d) or _said("flags", t.flags & MARKS, d.flags & MARKS)

    def _node(self, i: int, j: int) -> str:
        t, d = self.a.tensors[i], self.b.tensors[j]
        if t.op != d.op:
            return _said("operation", t.op, d.op)
        return (
            _layout(t, d)
            or self._sources(t, d)
            or self._root(t, d)
            or _said("flags", t.flags & MARKS, d.flags & MARKS)
            or (_said("pinned", t.pinned, d.pinned) if self.pins else "")
            or _parameters(t, d)
        )

    def _sources(self, t: Tensor, d: Tensor) -> str:
        if len(t.src) != len(d.src):
            return _said("sources", len(t.src), len(d.src))
        for n, (s, r) in enumerate(zip(t.src, d.src, strict=True)):
            if what := self._same(s, r):
                return f"source {n}: {what}"
        return ""

    def _root(self, t: Tensor, d: Tensor) -> str:
        if (t.view == NONE) != (d.view == NONE):
            return _said("view", t.view != NONE, d.view != NONE)
        if t.view == NONE:
            return ""
        if what := self._same(t.view, d.view):
            return f"root of the view: {what}"
        return _said("offset", t.offset, d.offset)

    def _same(self, s: int, r: int) -> str:
        """Why tensor `s` is not what `r` is in the other graph; nothing where it is."""
        if self.match[s] == r:
            return ""
        t, d = self.a.tensors[s], self.b.tensors[r]
        if t.usage == d.usage == WEIGHT:  # the engine may have a second copy in other memory of one device
            found = _leaf(t, d)
            return found and f"{_called(self.a, s)}: {found}"
        known = self.match[s] != NONE or self.back[r] != NONE
        if not known and t.op == d.op == "NONE" and t.usage == d.usage:
            self.match[s], self.back[r] = r, s
            found = _leaf(t, d)
            return found and f"{_called(self.a, s)}: {found}"
        return f"{_called(self.a, s)}, the engine's is {_called(self.b, r)}"


def layer_difference(one: Instance, first: int, two: Instance, other: int) -> str:
    """How the nodes of the layer at `other` in `two` differ from those at `first` in `one`; nothing where they do not.

    Both count the layers that were built.
    """
    ours, theirs = _of_layer(one, first), _of_layer(two, other)
    for number, (x, y) in enumerate(zip(ours, theirs, strict=False)):
        if x != y:
            return f"node {number} of it is {y}, not {x}"
    return _said("nodes", len(theirs), len(ours)) and f"{len(theirs)} nodes, not {len(ours)}"


def _of_layer(made: Instance, il: int) -> list[tuple[object, ...]]:
    """The nodes of a layer, with their sources from where they stand in it."""
    graph, (start, end) = made.graph, made.starts[il : il + 2]
    at = {i: k for k, i in enumerate(graph.nodes[start:end])}
    found: list[tuple[object, ...]] = []
    for i in graph.nodes[start:end]:
        t = graph.tensors[i]
        src = tuple(at.get(s, graph.tensors[s].usage - _BEFORE) for s in t.src)
        found.append((t.op, t.type.name, tuple(t.ne), tuple(t.nb), src, t.flags & MARKS, t.params))
    return found


def inputs(graph: Graph) -> list[int]:
    """Leafs that the allocator places, in the engine's order."""
    return [i for i in graph.leafs if graph.tensors[i].usage == COMPUTE]


def _said(name: str, ours: object, theirs: object) -> str:
    return "" if ours == theirs else f"{name} {ours}, the engine's is {theirs}"


def _layout(t: Tensor, d: Tensor) -> str:
    return (
        _said("type", t.type.name, d.type.name)
        or _said("extents", tuple(t.ne), tuple(d.ne))
        or _said("strides", tuple(t.nb), tuple(d.nb))
    )


def _leaf(t: Tensor, d: Tensor) -> str:
    if t.usage == COMPUTE:
        return "an input that is not listed as a leaf"
    name = _said("weight", t.name, d.name) if t.usage == WEIGHT else ""
    return name or _layout(t, d) or _said("home", max(t.home, NONE), max(d.home, NONE))


def _parameters(t: Tensor, d: Tensor) -> str:
    return _said("asked of its op_params", asked(t), asked(d))


def asked(t: Tensor) -> bool:
    """What a rule of a backend asks of a node's parameters."""
    if t.op not in _ASKED:
        return False
    word, question = _ASKED[t.op]
    return question(param(t, word))


def listing(
    graph: Graph, number: int, order: str = "node", before: int = _CONTEXT, after: int = 2
) -> list[str]:
    """Lines of a graph around one of its nodes (or inputs); nodes are called by their number."""
    chosen = graph.nodes if order == "node" else inputs(graph)
    at = {i: k for k, i in enumerate(chosen)} if order == "node" else None
    first, last = max(0, number - before), min(len(chosen), number + after + 1)
    return [_line(graph, k, chosen[k], at) for k in range(first, last)]


def _line(graph: Graph, number: int, i: int, at: dict[int, int] | None) -> str:
    t = graph.tensors[i]
    line = f"{number:5} {t.op:15} {t.type.name:5} {list(t.ne)!s:26} {list(t.nb)!s:34}"
    line += f" ({', '.join('itself' if s == i else _called(graph, s, at) for s in t.src)})"
    line += f" view of {_called(graph, t.view, at)}+{t.offset}" if t.view != NONE else ""
    line += f" flags {t.flags}" if t.flags & MARKS else ""
    line += f" pinned {t.pinned}" if t.pinned != NONE else ""
    return f"{line} {t.name!r}"


def _called(graph: Graph, i: int, at: dict[int, int] | None = None) -> str:
    """A tensor in a few words."""
    t = graph.tensors[i]
    if t.op != "NONE":
        if at is None:
            at = {x: k for k, x in enumerate(graph.nodes)}
        return f"#{at.get(i, '?')} {t.op}"
    what = {WEIGHT: "weight ", CACHE: "cache "}.get(t.usage, "input ")
    home = f"@{t.home}" if t.usage != COMPUTE else ""
    return f"{what}{t.name or t.type.name}{list(t.ne)}{home}"
