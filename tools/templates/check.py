"""Does a template predict graphs that it has not seen? Node for node: operations, layouts, sources, marks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tools.engine.trace import NONE, Dump
from vramfit._ggml.graph import COMPUTE, Graph
from vramfit._graphs import Prepared, build, prepare
from vramfit._graphs.dims import Run
from vramfit._graphs.expressions import OutsideTemplate
from vramfit._graphs.text import Template
from vramfit._llama.model import Home, Model
from vramfit._llama.placement import HOST, Placement

from .trace import dumps, read


def one_card(model: Model, caches: bool = True) -> Placement:
    """Everything on one device, input tensors on the host."""
    weights = tuple(HOST if w.home is Home.INPUT else 0 for w in model.weights)
    return Placement(1, (0,) * (model.n_layer + 1), weights, (0 if caches else HOST,) * model.n_layer, caches)


def check(template: Template, header: str, arguments: Mapping[str, Any]) -> list[str]:
    """How the graphs of one context differ from the engine's; "outside: ..." where the template says so itself."""
    model = read(header)
    try:
        prepared = prepare(template, model)
    except OutsideTemplate as e:
        return [f"outside: {e}"]
    found = []
    for dump, run in dumps(header, model, arguments):
        found += [
            f"{run.n_tokens} tokens: {x}"
            for x in differences(prepared, dump, run, bool(arguments.get("offload_kqv", True)))
        ]
    return found


def differences(prepared: Prepared, dump: Dump, run: Run, caches: bool = True) -> list[str]:
    """How the built graph differs from `dump`: the first few."""
    try:
        graph = build(prepared, run, one_card(prepared.model, caches)).graph
    except OutsideTemplate as e:
        return [f"outside: {e}"]
    return _compare(graph, dump)


def _compare(graph: Graph, dump: Dump) -> list[str]:
    match: dict[int, int] = {}
    inputs = [i for i in graph.leafs if graph.tensors[i].usage == COMPUTE]
    theirs = [i for i in dump.leafs if dump.tensors[i].usage == COMPUTE]
    found = []
    if len(inputs) != len(theirs):
        found.append(f"{len(inputs)} inputs, the engine has {len(theirs)}")
    for i, j in zip(inputs, theirs, strict=False):
        t, d = graph.tensors[i], dump.tensors[j]
        match[i] = j
        if (t.type.name, t.ne, t.flags) != (d.type, d.ne, d.flags & 3):
            found.append(
                f"input {t.name} {t.type.name}{t.ne} {t.flags}, the engine's is {d.name} {d.type}{d.ne} {d.flags & 3}"
            )
    if len(graph.nodes) != len(dump.nodes):
        found.append(f"{len(graph.nodes)} nodes, the engine has {len(dump.nodes)}")
    for i, j in zip(graph.nodes, dump.nodes, strict=False):
        match[i] = j
        found += _compare_node(graph, dump, i, j, match)
        if len(found) > 3:
            break
    return found


def _compare_node(graph: Graph, dump: Dump, i: int, j: int, match: dict[int, int]) -> list[str]:
    t, d = graph.tensors[i], dump.tensors[j]
    ours = (t.op, t.type.name, t.ne, t.nb, t.flags, t.pinned, t.params[1:2] == (1,))
    engine = (d.op, d.type, d.ne, d.nb, d.flags & 3, d.pinned, d.op == "MUL_MAT" and d.params[1:2] == (1,))
    found = [f"{t.name}: {ours}, the engine's {d.name} is {engine}"] if ours != engine else []
    for s, r in zip(t.src, d.src, strict=False):
        if not _same(graph, dump, s, r, match):
            found.append(
                f"{t.name} reads {graph.tensors[s].name}, the engine's {d.name} reads {dump.tensors[r].name}"
            )
    if len(t.src) != len(d.src):
        found.append(f"{t.name} has {len(t.src)} sources, the engine's {d.name} has {len(d.src)}")
    if (t.view == NONE) != (d.view == NONE) or (
        t.view != NONE and not _same(graph, dump, t.view, d.view, match)
    ):
        found.append(f"{t.name}: another root than the engine's {d.name}")
    return found


def _same(graph: Graph, dump: Dump, s: int, r: int, match: dict[int, int]) -> bool:
    if s in match:
        return match[s] == r
    t, d = graph.tensors[s], dump.tensors[r]
    if t.usage == COMPUTE or t.usage != d.usage:
        return False
    if (t.type.name, t.ne, t.nb) != (d.type, d.ne, d.nb) or (t.usage == 1 and t.name != d.name):
        return False
    match[s] = r
    return True
