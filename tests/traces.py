"""Graphs for tests: real ones that the engine built and measured, and small ones made at random.

A file of `data/graphs` is the text of what the engine reserved for one model and one set of settings:
a line of JSON (which), then for each graph a line "graph, copies, splits, bytes of each backend" and a
line for each tensor. Bytes are those the engine held after reserving that graph.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from vramfit._ggml.backends import BACKENDS, Backend
from vramfit._ggml.graph import (
    CACHE,
    HOST,
    INPUT,
    NONE,
    OUTPUT,
    WEIGHT,
    Extents,
    Graph,
    Tensor,
    contiguous,
)
from vramfit._ggml.sched import Schedule, schedule
from vramfit._ggml.types import BY_NAME, TensorType

# A device of CUDA's sizes that runs whatever a made-up graph holds.
DEVICE = replace(BACKENDS["cuda"], ops=None, conditions={}, graph_optimize=None)
FOLDER = Path(__file__).parent / "data" / "graphs"
NAMES = sorted(p.name.removesuffix(".txt.gz") for p in FOLDER.glob("*.txt.gz"))
_PLACES = {"-": NONE, "host": HOST, "cpu": HOST}


@dataclass(frozen=True)
class Reserved:
    """One graph that the engine reserved, and what came of it."""

    graph: Graph
    n_copies: int
    n_splits: int
    n_bytes: tuple[int, ...]  # of each backend, the CPU last


@dataclass(frozen=True)
class Trace:
    """All reservations of one context."""

    settings: dict[str, object]
    passes: tuple[Reserved, ...]

    @property
    def devices(self) -> tuple[Backend, ...]:
        return (BACKENDS["cuda"],) * (len(self.passes[0].n_bytes) - 1)

    def plans(self, devices: Sequence[Backend] | None = None) -> list[Schedule]:
        offload = bool(self.settings.get("op_offload", True))
        on = self.devices if devices is None else devices
        return [schedule(p.graph, on, n_copies=p.n_copies, op_offload=offload) for p in self.passes]


def trace(name: str) -> Trace:
    with gzip.open(FOLDER / f"{name}.txt.gz", "rt") as f:
        head, *lines = f.read().splitlines()
    passes: list[Reserved] = []
    for line in lines:
        kind, *fields = line.split("\t")
        if kind == "graph":
            n_copies, n_splits, *n_bytes = map(int, fields)
            passes.append(Reserved(Graph([], [], []), n_copies, n_splits, tuple(n_bytes)))
            continue
        graph = passes[-1].graph
        (graph.leafs if kind == "leaf" else graph.nodes).append(len(graph.tensors))
        graph.tensors.append(_tensor(fields))
    return Trace(json.loads(head)["settings"], tuple(passes))


def _tensor(fields: list[str]) -> Tensor:
    name, op, type_, ne_, nb_, src, view, flags, usage, home, pinned, params = fields
    kind, ne = BY_NAME[type_], _extents(ne_)
    root, _, offset = view.partition("+")
    return Tensor(
        name,
        op,
        kind,
        ne,
        _extents(nb_) if nb_ else contiguous(kind, ne),
        _ints(src),
        int(root) if root else NONE,
        int(offset or 0),
        int(flags),
        int(usage),
        _PLACES[home] if home in _PLACES else int(home),
        _PLACES[pinned] if pinned in _PLACES else int(pinned),
        _ints(params),
    )


def _ints(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(","))) if text else ()


def _extents(text: str) -> Extents:
    a, b, c, d = _ints(text)
    return (a, b, c, d)


class Maker:
    """Makes a graph tensor by tensor."""

    def __init__(self) -> None:
        self.graph = Graph([], [], [])

    def leaf(self, ne: Sequence[int], type_: str = "f32", **fields: int) -> int:
        return self._add(self.graph.leafs, "NONE", ne, (), BY_NAME[type_], fields)

    def weight(self, ne: Sequence[int], home: int, type_: str = "f32") -> int:
        return self.leaf(ne, type_, usage=WEIGHT, home=home)

    def cache(self, ne: Sequence[int], home: int) -> int:
        return self.leaf(ne, "f16", usage=CACHE, home=home)

    def node(self, op: str, ne: Sequence[int], *src: int, **fields: int) -> int:
        return self._add(self.graph.nodes, op, ne, src, BY_NAME["f32"], fields)

    def view(self, of: int) -> int:
        root = self.graph.tensors[of].view
        t = self.graph.tensors[of]
        return self._add(
            self.graph.nodes, "VIEW", t.ne, (of,), t.type, {"view": of if root == NONE else root}
        )

    def _add(
        self,
        order: list[int],
        op: str,
        ne: Sequence[int],
        src: tuple[int, ...],
        type_: TensorType,
        fields: dict[str, Any],
    ) -> int:
        a, b, c, d = (*ne, 1, 1, 1, 1)[:4]
        index = len(self.graph.tensors)
        self.graph.tensors.append(
            Tensor(f"t{index}", op, type_, (a, b, c, d), contiguous(type_, (a, b, c, d)), src, **fields)
        )
        order.append(index)
        return index


OPS = ("ADD", "CONT", "GLU", "RMS_NORM", "SOFT_MAX", "VIEW")


@st.composite
def steps(draw: st.DrawFn, least: int = 2, most: int = 10) -> list[tuple[str, int, list[int]]]:
    """A recipe of nodes: op, number of elements, and which earlier tensors it reads, counted backwards."""
    return draw(
        st.lists(
            st.tuples(
                st.sampled_from(OPS),
                st.sampled_from((0, 1, 32, 100, 1000)),
                st.lists(st.integers(1, 6), min_size=1, max_size=3),
            ),
            min_size=least,
            max_size=most,
        )
    )


def follow(make: Maker, known: list[int], recipe: list[tuple[str, int, list[int]]]) -> None:
    """Append the nodes of a recipe; `known` is what they can read, and grows."""
    for op, n, back in recipe:
        src = [known[-min(b, len(known))] for b in back]
        known.append(make.view(src[0]) if op == "VIEW" else make.node(op, (n,), *src))


@st.composite
def graphs(draw: st.DrawFn, n_devices: int = 2) -> Graph:
    """A random graph over `n_devices`: inputs, weights here and there, some outputs, some pins."""
    make = Maker()
    known = [make.leaf((draw(st.integers(0, 500)),), flags=INPUT) for _ in range(draw(st.integers(1, 3)))]
    places = st.sampled_from((*range(n_devices), HOST))
    for recipe in draw(st.lists(steps(), min_size=1, max_size=6)):
        known.append(make.weight((64, 64), draw(places)))
        follow(make, known, recipe)
        make.graph.tensors[known[-1]].pinned = draw(st.sampled_from((NONE, NONE, 0, HOST)))
    make.node("ADD", (100,), known[-1], flags=OUTPUT)
    return make.graph
