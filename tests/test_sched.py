"""The scheduler replay: against the engine, and by the laws that any schedule keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from traces import DEVICE, NAMES, Maker, graphs, trace

from vramfit._base.errors import EngineRefusal
from vramfit._ggml.backends import BACKENDS, Backend, SplitGraph
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


# --- rule by rule

# A device that reads the memory of others.
READER = replace(DEVICE, own_memory_only=False)


def test_copies_stand_before_their_split_behind_a_dependency() -> None:
    """A split starts with its inputs: what keeps the source alive, on its backend, then the copy, on the split's."""
    make = Maker()
    x = make.leaf((64, 8), flags=INPUT)
    w, v = make.weight((64, 64), 0), make.weight((64, 64), 1)
    a = make.node("MUL_MAT", (64, 8), w, x)
    b = make.node("MUL_MAT", (64, 8), v, a)
    make.graph.tensors[x].nb = (4, 512, 4096, 4096)
    plan = schedule(make.graph, (DEVICE, DEVICE))
    (x_copy,), (a_copy,) = plan.copies[x, 0], plan.copies[a, 1]
    x_kept, a_kept = plan.nodes[0][0], plan.nodes[3][0]
    assert plan.nodes == [(x_kept, 2), (x_copy, 0), (a, 0), (a_kept, 0), (a_copy, 1), (b, 1)]
    assert (plan.src[x_kept], plan.src[a_kept]) == ((x,), (a,))
    assert (plan.src[a], plan.src[b]) == ((w, x_copy), (v, a_copy))
    assert [plan.tensors[i].view for i in (x_kept, a_kept, x_copy)] == [x, a, NONE]
    assert plan.tensors[x_copy].nb == (4, 512, 4096, 4096), "gaps are copied too"
    assert [plan.flags[i] for i in (x, x_copy, a_copy, x_kept)] == [INPUT, 0, 0, 0]
    assert plan.leafs == [(x, 2)]
    assert len(plan.src) == len(plan.flags) == len(plan.tensors)


def test_leafs_of_a_pipeline_are_all_copies_first() -> None:
    """Inputs and their copies, then the copies of each split's inputs, then the leafs without memory."""
    make = Maker()
    x = make.leaf((64, 8), flags=INPUT)
    loose = make.leaf((64, 8))
    a = make.node("ADD", (64, 8), make.node("MUL_MAT", (64, 8), make.weight((64, 64), 0), x), loose)
    make.node("MUL_MAT", (64, 8), make.weight((64, 64), 1), a)
    plan = schedule(make.graph, (DEVICE, DEVICE), n_copies=PIPELINE_COPIES)
    copies = [i for i, _ in plan.leafs]
    assert copies[0] == x
    assert copies[4:12] == plan.copies[x, 0] + plan.copies[a, 1]
    assert copies[12:] == [x, loose]
    assert [b for _, b in plan.leafs] == [2] * 4 + [0] * 4 + [1] * 4 + [2, 0]
    assert all(plan.flags[i] == INPUT | OUTPUT for i in copies[:12])
    assert plan.flags[loose] == 0


@pytest.mark.parametrize(
    ("op", "homes", "n_tokens", "where"),
    [
        ("MUL_MAT", (1, 0), 8, 1),  # the first weight decides
        ("MUL_MAT", (HOST, 0), 8, 2),
        ("MUL_MAT", (HOST, 0), 32, 0),  # a host weight is offloaded to the first device
        ("GET_ROWS", (HOST,), 64, 2),
        ("ROPE", (1,), 8, 0),  # factors and sinks draw nothing: the node stays beside its neighbour
        ("FLASH_ATTN_EXT", (HOST,), 64, 0),
    ],
)
def test_first_choices(op: str, homes: tuple[int, ...], n_tokens: int, where: int) -> None:
    """A node goes to its first weight, unless that is too small to draw it."""
    make = Maker()
    x = make.leaf((64, n_tokens), flags=INPUT)
    a = make.node("MUL_MAT", (64, n_tokens), make.weight((64, 64), 0), x)
    node = make.node(op, (64, n_tokens), a, *(make.weight((64, 64), h) for h in homes))
    assert dict(schedule(make.graph, (READER, READER)).nodes)[node] == where


def refusing(op: str) -> Backend:
    """A device that does not run an operation."""
    return replace(DEVICE, conditions={op: lambda node, src: False})


def test_offload_skips_the_device_that_refuses() -> None:
    """A host weight goes to the first device that runs its operation, or stays."""
    make = Maker()
    node = make.node("MUL_MAT", (64, 32), make.weight((64, 64), HOST), make.leaf((64, 32), flags=INPUT))
    for devices, where in (((refusing("MUL_MAT"), DEVICE), 1), ((refusing("MUL_MAT"),) * 2, 2)):
        assert dict(schedule(make.graph, devices).nodes)[node] == where


def test_unknown_operations_are_refused() -> None:
    """A device runs the operations that it lists, under their conditions."""
    make = Maker()
    a = make.node("MUL_MAT", (64, 8), make.weight((64, 64), 0), make.leaf((64, 8), flags=INPUT))
    b = make.node("SIN", (64, 8), a)
    make.node("MUL_MAT", (64, 8), make.weight((64, 64), 0), b)
    for ops, where in ((frozenset({"MUL_MAT"}), 1), (frozenset({"MUL_MAT", "SIN"}), 0)):
        assert dict(schedule(make.graph, (replace(DEVICE, ops=ops),)).nodes)[b] == where


def test_what_writes_into_a_buffer_runs_where_it_is() -> None:
    """A node whose result is part of a cache runs beside it, unless its device refuses."""
    for device, where in ((DEVICE, 1), (refusing("SET_ROWS"), 0)):
        make = Maker()
        cache = make.cache((64, 8), 1)
        a = make.node("MUL_MAT", (64, 8), make.weight((64, 64), 0), make.leaf((64, 8), flags=INPUT))
        node = make.node("SET_ROWS", (64, 8), a, view=cache)
        assert dict(schedule(make.graph, (DEVICE, device)).nodes)[node] == where


def test_inputs_among_the_nodes_are_the_cpus() -> None:
    """A node that the caller fills runs on the CPU; a leaf without memory or flag goes to its reader."""
    make = Maker()
    node = make.node("CONT", (64, 8), make.leaf((64, 8)), flags=INPUT)
    make.node("MUL_MAT", (64, 8), make.weight((64, 64), 0), node)
    plan = schedule(make.graph, (DEVICE,))
    assert dict(plan.nodes)[node] == dict(plan.leafs)[0] == 1


@pytest.mark.parametrize(
    ("homes", "where", "or_else"),
    [((0, 1, 1), 1, 1), ((0, 1), 0, 1), ((HOST, HOST, 0), 2, 2), ((), 0, 1), ((HOST, 1, 1, HOST), 1, 1)],
)
@pytest.mark.parametrize("seen", [False, True])
def test_what_nobody_reaches_goes_where_most_sources_are(
    homes: tuple[int, ...], where: int, or_else: int, seen: bool
) -> None:
    """Without a neighbour a node goes where most of its sources are, of equals to the first that does not refuse."""
    make = Maker()
    caches = [make.cache((64, 8), h) for h in homes]
    node = make.node("ADD", (64, 8), *(make.view(c) if seen else c for c in caches))
    assert dict(schedule(make.graph, (READER, READER)).nodes)[node] == where
    first = replace(READER, conditions={"ADD": lambda node, src: False})
    assert dict(schedule(make.graph, (first, READER)).nodes)[node] == or_else


@pytest.mark.parametrize(("pins", "wanted"), [
    ("0..", "000"), ("..0", "000"), (".0.1.", "00011"), ("c..", "ccc"), ("..c", "ccc"), ("0.c.1", "00c11"),
    ("c.0.c", "c000c"), ("c.1", "c11"), ("1.c.", "11cc"), ("0.c", "00c"), (".c.0", "cc00"),
])  # fmt: skip
def test_assignments_spread(pins: str, wanted: str) -> None:
    """Devices spread down, then up; the CPU takes what they leave."""
    make = Maker()
    x = make.leaf((64, 8))
    for pin in pins:
        x = make.node("SIN", (64, 8), x, pinned={"0": 0, "1": 1, "c": HOST, ".": NONE}[pin])
    on = dict(schedule(make.graph, (DEVICE, DEVICE)).nodes)
    assert "".join("01c"[on[i]] for i in make.graph.nodes) == wanted


def test_a_foreign_weight_opens_a_split() -> None:
    """A split that brought something ends where a further weight must come, so that memory can be used again."""
    make = Maker()
    x = make.leaf((64, 32), flags=INPUT)
    a = make.node("MUL_MAT", (64, 32), make.weight((64, 64), HOST), x)
    b = make.node("SIN", (64, 32), a)
    c = make.node("MUL_MAT", (64, 32), make.weight((64, 64), HOST), b)
    make.node("MUL_MAT", (64, 32), make.weight((64, 64), 0), c)
    splits = schedule(make.graph, (DEVICE,)).splits
    assert [(s.backend, s.start, s.end, len(s.inputs)) for s in splits] == [(0, 0, 2, 2), (0, 2, 4, 1)]


def test_a_split_without_inputs_goes_on_past_a_foreign_weight() -> None:
    """Nothing was brought yet, so there is nothing to gain; a weight at home never opens a split."""
    make = Maker()
    a = make.node("SIN", (64, 32), make.cache((64, 32), 0))
    a = make.node("MUL_MAT", (64, 32), make.weight((64, 64), 0), a)
    make.node("MUL_MAT", (64, 32), make.weight((64, 64), HOST), a)
    assert [len(s.inputs) for s in schedule(make.graph, (DEVICE,)).splits] == [1]


def test_more_than_ten_dependencies_take_two_nodes() -> None:
    """What is kept until a node is named ten sources at a time, each once (GGML_MAX_SRC)."""
    make = Maker()
    x = make.leaf((64, 8), flags=INPUT)
    for _ in range(13):
        x = make.node("MUL_MAT", (64, 8), make.weight((64, 64), 0), x)
    last = make.graph.nodes[-1]

    def keep_all(g: SplitGraph, keep: Keep) -> None:
        for i in [*g.nodes[:12], *g.nodes[:12]]:
            keep(i, last)
        assert [g.uses(i) for i in (0, *g.nodes)] == [1] * 13 + [0]

    plan = schedule(make.graph, (replace(DEVICE, graph_optimize=keep_all),))
    first, second = plan.nodes[-2:]
    assert (first[1], second[1]) == (0, 0)
    assert (plan.src[first[0]], plan.src[second[0]]) == (
        tuple(make.graph.nodes[:10]),
        tuple(make.graph.nodes[10:12]),
    )


def test_a_view_lies_where_its_root_was_computed() -> None:
    """A node that its neighbour's device refuses follows what it reads, through views that have no place yet."""
    make = Maker()
    far = make.node("SIN", (64, 8), make.leaf((64, 8)), pinned=2)
    make.node("SIN", (64, 8), make.leaf((64, 8)), pinned=0)
    node = make.node("ADD", (64, 8), make.view(far))
    devices = (replace(READER, conditions={"ADD": lambda node, src: False}), READER, READER)
    assert dict(schedule(make.graph, devices).nodes)[node] == 2


def test_a_node_that_nothing_runs_is_refused() -> None:
    """Quantized weights with f16 inputs run on no device and not on the host: the engine aborts, a plan is refused."""
    make = Maker()
    make.node("MUL_MAT", (4, 8), make.leaf((256, 4), "q4_0"), make.leaf((256, 8), "f16"))
    with pytest.raises(EngineRefusal, match="runs MUL_MAT on q4_0 and f16"):
        schedule(make.graph, (BACKENDS["cuda"],))
