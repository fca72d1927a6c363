"""The scheduler replay: against the engine, and by the laws that any schedule keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from traces import DEVICE, NAMES, Maker, graphs, trace

from vramfit._ggml.backends import SplitGraph
from vramfit._ggml.backends.nouns import Keep
from vramfit._ggml.graph import HOST, INPUT, NONE, OUTPUT, VIEW_OPS, Graph, Tensor
from vramfit._ggml.sched import PIPELINE_COPIES, Schedule, copies_of_inputs, schedule

COPIES = st.sampled_from((1, PIPELINE_COPIES))


@pytest.mark.parametrize("name", NAMES)
def test_splits_are_the_engines(name: str) -> None:
    """A graph is cut as often as the engine cut it."""
    t = trace(name)
    assert [len(plan.splits) for plan in t.plans()] == [p.n_splits for p in t.passes]


def buffers(plan: Schedule) -> dict[int, int]:
    """The backend that owns the memory of each tensor of a schedule."""
    cpu = len(plan.backends) - 1
    on = dict(plan.leafs) | dict(plan.nodes)
    for (_, backend), copies in plan.copies.items():
        on |= dict.fromkeys(copies, backend)
    for i, t in enumerate(plan.tensors):
        if t.home != NONE:
            on[i] = t.home if t.home >= 0 else cpu
    return {i: on[i if plan.tensors[i].view == NONE else plan.tensors[i].view] for i in on}


def check_reach(plan: Schedule) -> None:
    """Assert that every node that computes reads only memory of its own backend."""
    where = buffers(plan)
    for i, backend in plan.nodes:
        if plan.tensors[i].op not in VIEW_OPS and plan.tensors[i].op != "NONE":
            assert all(where[s] == backend for s in plan.src[i]), plan.tensors[i].name


@pytest.mark.parametrize("name", NAMES)
def test_real_nodes_read_memory_of_their_backend(name: str) -> None:
    """In the engine's graphs, after the copies are made, every node reads its own backend's memory."""
    for plan in trace(name).plans():
        check_reach(plan)


@given(graphs(), COPIES, st.booleans())
def test_nodes_keep_their_order_and_their_pins(graph: Graph, n_copies: int, op_offload: bool) -> None:
    """Scheduling only adds to the nodes, and a pinned node runs where the caller said."""
    plan = schedule(graph, (DEVICE, DEVICE), n_copies=n_copies, op_offload=op_offload)
    nodes = [i for i, _ in plan.nodes if i < len(graph.tensors)]
    assert nodes == graph.nodes
    for i, backend in plan.nodes:
        pinned = plan.tensors[i].pinned
        assert pinned == NONE or backend == (2 if pinned == HOST else pinned)


@given(graphs(), COPIES, st.booleans())
def test_splits_cover_the_graph(graph: Graph, n_copies: int, op_offload: bool) -> None:
    """Splits follow one another without a gap, and each runs on one backend."""
    plan = schedule(graph, (DEVICE, DEVICE), n_copies=n_copies, op_offload=op_offload)
    assert [s.start for s in plan.splits] == [0, *(s.end for s in plan.splits[:-1])]
    assert plan.splits[-1].end == len(graph.nodes)
    on = dict(plan.nodes)
    for split in plan.splits:
        work = (i for i in graph.nodes[split.start : split.end] if graph.tensors[i].op not in VIEW_OPS)
        assert {on[i] for i in work} == {split.backend}


@given(graphs(), COPIES)
def test_a_tensor_is_copied_once_to_a_backend(graph: Graph, n_copies: int) -> None:
    """However many splits read a tensor, its copies on a backend are made once, in the asked number."""
    plan = schedule(graph, (DEVICE, DEVICE), n_copies=n_copies)
    made = [(s, split.backend) for split in plan.splits for s in split.inputs]
    assert len(made) == len(set(made))
    assert all(len(plan.copies[key]) == n_copies for key in made)


@given(graphs(), st.booleans())
def test_pipeline_copies_live_on(graph: Graph, op_offload: bool) -> None:
    """With pipeline parallelism every copy and every input is kept like an output, and placed first."""
    plan = schedule(graph, (DEVICE, DEVICE), n_copies=PIPELINE_COPIES, op_offload=op_offload)
    placed = {i for i, _ in plan.leafs}
    inputs = [i for i in graph.leafs if graph.tensors[i].flags & INPUT]
    for i in [*inputs, *(c for copies in plan.copies.values() for c in copies)]:
        assert i in placed
        assert plan.flags[i] & OUTPUT


@given(graphs(n_devices=1), st.booleans())
def test_without_devices_nothing_is_split(graph: Graph, op_offload: bool) -> None:
    """On the CPU alone a graph is one split without copies."""
    for t in graph.tensors:
        t.home, t.pinned = (HOST if t.home != NONE else NONE), (HOST if t.pinned != NONE else NONE)
    plan = schedule(graph, (), op_offload=op_offload)
    assert len(plan.splits) == 1
    assert not plan.copies


def test_weights_draw_their_nodes() -> None:
    """Nodes run where their weights lie; norms between follow their neighbours."""
    make = Maker()
    x = make.leaf((64, 8), flags=INPUT)
    a = make.node("MUL_MAT", (64, 8), make.weight((64, 64), 0), x)
    norm = make.node("RMS_NORM", (64, 8), a)
    b = make.node("MUL_MAT", (64, 8), make.weight((64, 64), 1), norm)
    on = dict(schedule(make.graph, (DEVICE, DEVICE)).nodes)
    assert (on[a], on[norm], on[b]) == (0, 0, 1)


@pytest.mark.parametrize(("n_tokens", "op_offload", "where"), [(32, True, 0), (31, True, 1), (32, False, 1)])
def test_host_weights_are_offloaded_in_batches(n_tokens: int, op_offload: bool, where: int) -> None:
    """An operation on a host weight moves to the device from 32 rows on, if it may."""
    make = Maker()
    x = make.leaf((64, n_tokens), flags=INPUT)
    node = make.node("MUL_MAT", (64, n_tokens), make.weight((64, 64), HOST), x)
    plan = schedule(make.graph, (DEVICE,), op_offload=op_offload)
    assert dict(plan.nodes)[node] == where


def test_what_a_device_refuses_runs_on_the_cpu() -> None:
    """A node that the device cannot run goes to the CPU, it alone, and what it reads is copied there."""
    device = replace(DEVICE, conditions={"FLASH_ATTN_EXT": lambda node, src: src[1].ne[0] == 128})
    make = Maker()
    x = make.leaf((100, 8, 4), flags=INPUT)
    q = make.node("MUL_MAT", (100, 8, 4), make.weight((100, 100), 0), x)
    k, v = make.cache((100, 256, 4), 0), make.cache((100, 256, 4), 0)
    fa = make.node("FLASH_ATTN_EXT", (100, 4, 8), q, k, v)
    out = make.node("MUL_MAT", (100, 8), make.weight((100, 100), 0), fa)
    plan = schedule(make.graph, (device,))
    on = dict(plan.nodes)
    assert (on[q], on[fa], on[out]) == (0, 1, 0)
    assert {s for s, b in plan.copies if b == 1} == {q, k, v}
    check_reach(plan)


def test_a_product_the_cpu_cannot_run_leaves_its_weight() -> None:
    """A weight draws no node to a backend that cannot run it, such as f16 activations to the CPU."""
    make = Maker()
    x = make.cache((64, 8), 0)
    node = make.node("MUL_MAT", (64, 8), make.weight((64, 64), HOST, "q8_0"), x)
    plan = schedule(make.graph, (DEVICE,), op_offload=False)
    assert dict(plan.nodes)[node] == 0
    check_reach(plan)


def test_views_are_where_their_root_is() -> None:
    """A view runs on the backend of what it views, even as the first node of a graph."""
    make = Maker()
    loose = make.leaf((64, 8))
    view = make.view(loose)
    cached = make.view(make.cache((64, 8), 1))
    node = make.node("ADD", (64, 8), view, cached)
    on = dict(schedule(make.graph, (DEVICE, DEVICE)).nodes)
    assert (on[view], on[cached]) == (0, 1)
    assert on[node] in (0, 1)


FULL = {"all_layers": True, "split_by_layer": True, "offload_kqv": True, "overrides": False}


@pytest.mark.parametrize("but", [{}, *({name: not value} for name, value in FULL.items())])
def test_pipelines_need_everything_on_the_devices(but: dict[str, bool]) -> None:
    """Inputs are kept four times if several devices hold all there is; once if anything is missing."""
    assert copies_of_inputs((DEVICE, DEVICE), **(FULL | but)) == (1 if but else 4)
    assert copies_of_inputs((DEVICE,), **(FULL | but)) == 1
    assert copies_of_inputs((DEVICE, replace(DEVICE, async_events=False)), **(FULL | but)) == 1


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_equal_devices_are_interchangeable(order: tuple[int, ...]) -> None:
    """Renaming equal devices renames the backends of the schedule and changes nothing else."""

    def chain(names: tuple[int, ...]) -> list[int]:
        make = Maker()
        x = make.leaf((64, 8), flags=INPUT)
        for d in names:
            x = make.node("MUL_MAT", (64, 8), make.weight((64, 64), d), x)
        return [b for _, b in schedule(make.graph, (DEVICE,) * 3).nodes]

    renamed = {d: order[d] for d in range(3)} | {3: 3}
    assert chain(order) == [renamed[b] for b in chain((0, 1, 2))]


@given(graphs(), st.sampled_from(("ADD", "GLU", "CONT")), st.booleans())
def test_nobody_runs_what_it_refuses(graph: Graph, op: str, op_offload: bool) -> None:
    """Whatever a device refuses runs on the CPU, wherever its neighbours are, unless the caller pinned it."""

    def small(node: Tensor, src: Sequence[Tensor]) -> bool:
        return node.ne[0] < 100

    device = replace(DEVICE, conditions={op: small})
    for i, b in schedule(graph, (device, device), op_offload=op_offload).nodes:
        t = graph.tensors[i] if i < len(graph.tensors) else None
        if t is not None and t.op == op and t.ne[0] >= 100 and t.pinned == NONE:
            assert b == 2


@pytest.mark.parametrize(("homes", "seen", "where"), [((0,), True, 1), ((0,), False, 0), ((0, 1), False, 2)])
def test_a_source_in_another_cards_memory_is_refused(homes: tuple[int, ...], seen: bool, where: int) -> None:
    """A card that takes its own memory alone leaves a node to the card whose memory it reads, and to the CPU
    where that are two; a view has no memory yet.
    """
    device = replace(DEVICE, own_memory_only=True)
    make = Maker()
    x = make.leaf((64, 8), flags=INPUT)
    y = make.node("MUL_MAT", (64, 8), make.weight((64, 64), 1), x)
    caches = [make.cache((64, 8), home) for home in homes]
    node = make.node("ROPE", (64, 8), y, *(make.view(c) if seen else c for c in caches))
    make.node("MUL_MAT", (64, 8), make.weight((64, 64), 1), node)
    assert dict(schedule(make.graph, (device, device)).nodes)[node] == where


@given(graphs(), st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=15))
def test_what_a_backend_keeps_stands_behind_the_node_it_is_kept_for(
    graph: Graph, pairs: list[tuple[int, int]]
) -> None:
    """Dependencies follow their node at once, on its split's backend, in groups of at most ten sources."""
    asked: dict[int, list[int]] = {}

    def keep_some(g: SplitGraph, keep: Keep) -> None:
        for back, ahead in pairs:
            until = g.nodes[g.start + ahead % (g.end - g.start)]
            kept = back % len(graph.tensors)
            keep(kept, until)
            if kept not in asked.setdefault(until, []):
                asked[until].append(kept)

    plan = schedule(graph, (replace(DEVICE, graph_optimize=keep_some),) * 2)
    assert [i for i, _ in plan.nodes if i < len(graph.tensors)] == graph.nodes
    for at, (i, _) in enumerate(plan.nodes):
        found: list[int] = []
        for d, _ in plan.nodes[at + 1 :]:
            t = plan.tensors[d]
            if (
                d < len(graph.tensors)
                or t.op != "NONE"
                or t.view == NONE
                or len(found) >= len(asked.get(i, ()))
            ):
                break
            assert len(t.src) <= 10
            found += t.src
        if i < len(graph.tensors):
            assert found == asked.get(i, [])
