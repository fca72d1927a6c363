"""What the proof of repeats promises: further repeats change nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from traces import DEVICE, Maker, follow, steps, trace

from vramfit._estimate.periodicity import Run, walk_repeats
from vramfit._ggml.galloc import allocate
from vramfit._ggml.graph import CACHE, HOST, INPUT, NONE, OUTPUT, Graph
from vramfit._ggml.sched import PIPELINE_COPIES, Schedule, schedule
from vramfit._ggml.types import BY_NAME

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


# --- what makes two repeats differ

Change = Callable[[Graph, dict[str, int]], object]


def attending(change: Change, where: int, home: int = 0, *, op_offload: bool = True) -> tuple[int, ...]:
    """The cycle of layers 1 and 2 of four that attend, one of them changed; a weight of each is on `home`.

    The padded sizes stay as they are, so that the allocator alone would not notice most changes.
    """
    make = Maker()
    last = make.node("MUL_MAT", (100, 32), make.weight((1, 100), 0), make.cache((1, 32), 0))
    starts: list[int] = []
    parts: list[dict[str, int]] = []
    for _ in range(4):
        starts.append(len(make.graph.nodes))
        at = {"last": last, "w": make.weight((100, 9), home)}
        at["q"] = make.node("MUL_MAT", (100, 32), at["w"], last)
        at["other"] = make.node("SIN", (100, 32), at["q"])
        at["view"] = make.view(at["q"])
        at["cont"] = make.node("GLU", (100, 32), at["view"], at["other"])
        at["k"] = make.leaf((64, 256, 4), "q8_0", usage=CACHE, home=0)
        at["fa"] = make.node("FLASH_ATTN_EXT", (64, 8, 4), at["cont"], at["k"], at["k"])
        closed = make.node("MUL_MAT", (100, 32), make.weight((64, 100), 0), at["fa"])
        last = at["out"] = make.node("ADD", (100, 32), last, closed)
        parts.append(at)
    make.node("MUL_MAT", (500, 32), make.weight((100, 500), 0), last, flags=OUTPUT)
    change(make.graph, parts[where])
    plan = schedule(make.graph, (DEVICE,), op_offload=op_offload)
    return cycles(make.graph, plan, [(starts[1], starts[2], starts[3])])


def put(part: str, **fields: object) -> Change:
    """Change fields of one tensor of a layer; sources and views are named by their parts."""

    def change(graph: Graph, at: dict[str, int]) -> None:
        for name, value in fields.items():
            if name == "src":
                value = tuple(at[x] for x in value)  # type: ignore[attr-defined]
            setattr(
                graph.tensors[at[part]],
                name,
                at[value] if isinstance(value, str) and name == "view" else value,
            )

    return change


F32, I32, F16 = (BY_NAME[n] for n in ("f32", "i32", "f16"))
SAME: Change = put("q")


@pytest.mark.parametrize("op_offload", [False, True])
@pytest.mark.parametrize("home", [0, HOST])
@pytest.mark.parametrize(
    "change", [SAME, put("w", name="other"), put("k", name="other")], ids=["nothing", "weight", "cache"]
)
def test_layers_that_differ_in_name_alone_are_steady(change: Change, home: int, op_offload: bool) -> None:
    """Equal layers repeat, also where a weight or a result is copied in each: the copies play one part."""
    assert attending(change, 2, home, op_offload=op_offload) in ((1,), (2,))


def test_how_a_weight_is_stored_counts_where_it_is_copied() -> None:
    """In its own buffer a weight of another type changes nothing; its copy is another tensor."""
    other = put("w", type=I32)
    assert attending(other, 2) in ((1,), (2,))
    assert attending(other, 2, HOST) == (0,)


@pytest.mark.parametrize("where", [1, 2])
@pytest.mark.parametrize(
    "change",
    [
        put("other", op="COS"),
        put("other", ne=(32, 100, 1, 1)),
        put("other", nb=(4, 400, 12800, 0)),
        put("other", type=I32),
        put("other", src=("q", "k")),
        put("other", src=("last",)),
        put("cont", src=("other", "view")),
        put("view", view="other"),
        put("view", view=NONE),
        put("w", ne=(9, 100, 1, 1)),
        put("w", home=HOST),
        put("w", usage=CACHE),
        put("k", type=F16),
        put("k", home=HOST),  # copied before the first node, so that the repeats have as many nodes
    ],
)  # fmt: skip
def test_layers_that_differ_are_not_steady(change: Change, where: int) -> None:
    """A layer with another operation, layout, source, view, weight or scratch than its neighbour proves nothing."""
    assert attending(change, where) == (0,)


@pytest.mark.parametrize("read_as", ["source", "view"])
def test_a_result_with_a_further_reader_is_not_steady(read_as: str) -> None:
    """Behind the repeats someone reads the last one's result alone: it is not what the others' results are."""

    def read_later(graph: Graph, at: dict[str, int]) -> None:
        end = graph.tensors[graph.nodes[-2]]
        end.src += (at["out"],)
        if read_as == "view":
            end.op, end.view = "VIEW", at["out"]

    assert attending(read_later, 2) == (0,)
    assert attending(read_later, 3) in ((1,), (2,))


def test_a_result_and_a_copy_are_not_one_part() -> None:
    """Where one layer reads its own result, the next a cache that is copied to the device: nothing is proved."""

    def read_cache(graph: Graph, at: dict[str, int]) -> None:
        put("k", home=HOST)(graph, at)
        put("cont", src=("k", "other"))(graph, at)

    assert attending(read_cache, 1) == attending(read_cache, 2) == (0,)
