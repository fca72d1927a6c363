"""What the proof of repeats promises: further repeats change nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from traces import DEVICE, Maker, follow, steps, trace

from vramfit._estimate.periodicity import Run, walk_repeats
from vramfit._ggml.galloc import allocate
from vramfit._ggml.graph import HOST, INPUT, OUTPUT, Graph
from vramfit._ggml.sched import PIPELINE_COPIES, Schedule, schedule

Recipe = list[tuple[str, int, list[int]]]


def repeat(recipe: Recipe, count: int, home: int, own_input: bool = False) -> tuple[Graph, list[int]]:
    """A chain of equal blocks on one device, each with a weight, and where each block begins."""
    make = Maker()
    shared = make.leaf((300,), flags=INPUT)
    last = make.node("MUL_MAT", (1000,), make.weight((1, 1000), 0), shared)
    starts = []
    for _ in range(count):
        starts.append(len(make.graph.nodes))
        known = [shared, make.leaf((70,), flags=INPUT) if own_input else make.weight((9, 9), home), last]
        opened = make.node("MUL_MAT", (1000,), known[1], last)
        known.append(opened)
        follow(make, known, recipe)
        closed = make.node("MUL_MAT", (1000,), make.weight((9, 9), 0), known[-1])
        last = make.node("ADD", (1000,), last, closed)
    starts.append(len(make.graph.nodes))
    make.node("MUL_MAT", (500,), make.weight((1000, 500), 0), last, flags=OUTPUT)
    return make.graph, starts


def cycles(graph: Graph, plan: Schedule, runs: list[Run]) -> tuple[int, ...]:
    """The cycles of the runs; the walk that finds them allocates what any walk does."""
    found = walk_repeats(graph, plan, runs)
    assert found.needs == allocate(plan)
    return found.cycles


def measure(graph: Graph, n_copies: int) -> tuple[tuple[int, ...], ...]:
    return allocate(schedule(graph, (DEVICE,), n_copies=n_copies, op_offload=False))


@given(
    steps(),
    st.integers(3, 6),
    st.sampled_from((0, HOST)),
    st.sampled_from((1, PIPELINE_COPIES)),
    st.integers(1, 4),
    st.booleans(),
)
def test_steady_runs_can_be_longer(
    recipe: Recipe, count: int, home: int, n_copies: int, more: int, own_input: bool
) -> None:
    """If the allocator is back after c repeats, c more, or any multiple, take the same bytes."""
    graph, starts = repeat(recipe, count, home, own_input)
    plan = schedule(graph, (DEVICE,), n_copies=n_copies, op_offload=False)
    middle = count // 2
    (cycle,) = cycles(graph, plan, [(starts[middle - 1], starts[middle], starts[middle + 1])])
    if cycle:
        longer, _ = repeat(recipe, count + cycle * more, home, own_input)
        assert allocate(plan) == measure(longer, n_copies)


def test_plain_layers_are_steady() -> None:
    """A block that adds to what it was given is back after one repeat, or after two."""
    graph, starts = repeat([("RMS_NORM", 1000, [1]), ("GLU", 100, [1])], 6, 0)
    plan = schedule(graph, (DEVICE,))
    assert cycles(graph, plan, [(starts[2], starts[3], starts[4])]) in ((1,), (2,))


def test_inputs_of_their_own_are_not_steady() -> None:
    """A block that brings an input of its own takes more memory with each repeat."""
    recipe: Recipe = [("RMS_NORM", 1000, [1])]
    graph, starts = repeat(recipe, 6, 0, own_input=True)
    plan = schedule(graph, (DEVICE,))
    assert cycles(graph, plan, [(starts[2], starts[3], starts[4])]) == (0,)
    assert measure(graph, 1) != measure(repeat(recipe, 7, 0, own_input=True)[0], 1)


def test_crossings_pile_up_in_a_pipeline() -> None:
    """With pipeline parallelism, copies between backends are kept: a block that crosses is not steady."""
    recipe: Recipe = [("RMS_NORM", 1000, [1])]
    graph, starts = repeat(recipe, 6, HOST)
    plan = schedule(graph, (DEVICE,), n_copies=PIPELINE_COPIES, op_offload=False)
    assert cycles(graph, plan, [(starts[2], starts[3], starts[4])]) == (0,)
    assert measure(graph, PIPELINE_COPIES) != measure(repeat(recipe, 7, HOST)[0], PIPELINE_COPIES)


def test_runs_must_be_equal() -> None:
    """Two stretches of different length, or of different nodes, prove nothing."""
    graph, starts = repeat([("RMS_NORM", 1000, [1])], 6, 0)
    plan = schedule(graph, (DEVICE,))
    assert cycles(graph, plan, [(starts[1], starts[2], starts[2] + 1)]) == (0,)
    assert cycles(graph, plan, [(0, 1, 2)]) == (0,)
    assert cycles(graph, plan, []) == ()


def test_real_layers_are_steady() -> None:
    """The layers of a real model repeat on each of its two devices, one after the other."""
    t = trace("many-layers")
    plan = t.plans()[0]
    graph = t.passes[0].graph
    ends = [p for p, i in enumerate(graph.nodes) if graph.tensors[i].name.startswith("l_out-")]
    on = dict(plan.nodes)
    runs = []
    for device in (0, 1):
        mine = [p + 1 for p in ends if on[graph.nodes[p]] == device]
        middle = len(mine) // 2
        runs.append((mine[middle - 1], mine[middle], mine[middle + 1]))
    found = cycles(graph, plan, runs)
    assert set(found) <= {1, 2}
