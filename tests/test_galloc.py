"""The allocator replay: against the engine, and by the laws that any allocator keeps."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from traces import DEVICE, NAMES, Maker, graphs, trace

from vramfit._ggml.backends import BACKENDS, SplitGraph
from vramfit._ggml.backends.nouns import Keep
from vramfit._ggml.galloc import Arena, Walk, allocate, fullest, held, most_alive, reserve
from vramfit._ggml.graph import CACHE, INPUT, NONE, OUTPUT, Graph
from vramfit._ggml.sched import PIPELINE_COPIES, Schedule, schedule
from vramfit._ggml.types import BY_NAME

VULKAN = BACKENDS["vulkan"]
COPIES = st.sampled_from((1, PIPELINE_COPIES))


@pytest.mark.parametrize("name", NAMES)
def test_buffers_are_the_engines(name: str) -> None:
    """After each reservation every backend holds the bytes that the engine held."""
    t = trace(name)
    plans = t.plans()
    for n, reserved in enumerate(t.passes, 1):
        assert reserve(plans[:n]) == reserved.n_bytes
    assert reserve(plans + plans[:1]) == t.passes[-1].n_bytes


# --- the arena

BLOCKS = st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=60)


def play(arena: Arena, blocks: list[tuple[int, bool]]) -> list[tuple[int, int]]:
    """Allocate a block for each entry, freeing the oldest where asked; returns what is left."""
    held: list[tuple[int, int]] = []
    for size, drop in blocks:
        if drop and held:
            arena.free(*held.pop(0))
        held.append((arena.alloc(size * 128), size * 128))
    return held


def check_apart(held: list[tuple[int, int]]) -> None:
    """Assert that no two blocks overlap."""
    ends = sorted((a, a + n) for a, n in held if n)
    assert all(end <= start for (_, end), (start, _) in pairwise(ends))


@given(BLOCKS, st.sampled_from((0, 1000, 2000)))
def test_blocks_never_overlap(blocks: list[tuple[int, bool]], max_buffer: int) -> None:
    """No two live blocks share a byte, and the high-water mark covers them all."""
    arena = Arena(max_buffer)
    held = play(arena, blocks)
    check_apart(held)
    assert sum(arena.peaks) >= sum(n for _, n in held)


@given(BLOCKS)
def test_freeing_all_leaves_one_block(blocks: list[tuple[int, bool]]) -> None:
    """When everything is given back the free blocks have merged into the one that was there first."""
    arena = Arena()
    held = [(arena.alloc(n * 128), n * 128) for n, _ in blocks if n]
    for block in sorted(held, key=lambda b: b[0] * 7919 % 101):
        arena.free(*block)
    assert len(arena.blocks) == bool(held)


@given(BLOCKS, st.integers(128, 3000))
def test_chunks_stay_within_the_largest_buffer(blocks: list[tuple[int, bool]], max_buffer: int) -> None:
    """A chunk outgrows the largest buffer only for a block that does, or when it is the last allowed."""
    arena = Arena(max_buffer)
    play(arena, blocks)
    largest = max((n * 128 for n, _ in blocks), default=0)
    assert all(peak <= max(max_buffer, largest) for peak in arena.peaks[:15])
    assert len(arena.peaks) <= 16


def test_best_fit_takes_the_smallest_hole() -> None:
    """Of the holes that are large enough the smallest is used, the open end only if there is none."""
    arena = Arena()
    at = [arena.alloc(n) for n in (512, 128, 256, 128, 256, 128)]
    for i, n in ((0, 512), (2, 256), (4, 256)):
        arena.free(at[i], n)
    assert arena.alloc(256) == at[4]  # of two equal holes the later
    assert arena.alloc(384) == at[0]
    assert arena.alloc(1024) == at[5] + 128


def test_freed_blocks_merge_with_their_neighbours() -> None:
    """A block joins the free one before it, the one behind it, or both; alone it stands by its address."""
    arena = Arena()
    a, b, c, d, e = (arena.alloc(128) for _ in range(5))
    end = (640, arena.blocks[-1][1])
    arena.free(c, 128)
    assert arena.blocks == ((c, 128), end)
    arena.free(b, 128)
    assert arena.blocks == ((b, 256), end)
    arena.free(d, 128)
    assert arena.blocks == ((b, 384), end)
    arena.free(a, 128)
    assert arena.blocks == ((a, 512), end)
    arena.free(e, 128)
    assert arena.blocks == ((a, end[1] + 640),)  # type: ignore[comparison-overlap]
    assert arena.peaks == (640,)
    assert [arena.alloc(128) for _ in range(5)] == [a, b, c, d, e]
    assert arena.peaks == (640,)


def test_a_lone_block_stands_by_its_address() -> None:
    """Free blocks are kept in order, wherever the new one lies."""
    arena = Arena()
    at = [arena.alloc(128) for _ in range(7)]
    for i in (3, 1, 5):
        arena.free(at[i], 128)
    assert [start for start, _ in arena.blocks] == [128, 384, 640, 896]


def test_an_exact_fit_leaves_no_block() -> None:
    """A hole that is filled is gone; one that is not begins behind what was taken."""
    arena = Arena()
    at = [arena.alloc(n) for n in (512, 128)]
    arena.free(at[0], 512)
    assert arena.alloc(384) == 0
    assert arena.blocks[0] == (384, 128)
    assert arena.alloc(128) == 384
    assert [start for start, _ in arena.blocks] == [640]


def test_chunks_open_where_no_other_has_room() -> None:
    """A chunk is as large as the limit, or as the block that needs it; the sixteenth has no limit (ggml-alloc.c:158)."""
    arena = Arena(1000)
    first = arena.alloc(600)
    large = arena.alloc(3000)
    assert arena.alloc(400) == first + 600
    assert arena.peaks == (1000, 3000)
    assert arena.blocks == ()
    for _ in range(13):
        arena.alloc(1000)
    assert len(arena.peaks) == 15
    arena.alloc(1000)
    arena.alloc(5000)
    assert arena.peaks[-1] == 6000  # type: ignore[comparison-overlap]
    assert len(arena.peaks) == 16
    arena.free(large, 3000)
    assert arena.alloc(2000) == large


@pytest.mark.parametrize(
    ("opens", "size", "taken"),
    [
        ((200, 300), 400, 0),  # spare below the marks of 600 and 700: 0 and 0, of equals the first
        ((200, 350), 300, 1),  # 100 and 50: the better fit
        ((250, 300), 300, 0),  # 50 and 100
        ((300, 450), 400, 0),  # -100 and -150: the mark that rises less
        ((350, 400), 400, 1),  # -150 and -100
        ((450, 290), 400, 1),  # -250 and 10: what does not grow
        ((190, 550), 400, 0),  # 10 and -250
        ((190, 290), 410, 0),  # 0 and 0
        ((600, 700), 380, 0),  # -380 and -380, where the second has room for 300
    ],
)
def test_the_open_end_that_grows_least_is_taken(opens: tuple[int, int], size: int, taken: int) -> None:
    """Of chunks with room at their end: the best fit below a high-water mark, else the mark that rises least."""
    arena = Arena(1000)
    starts = [arena.alloc(600), arena.alloc(700)]
    for start, mark, at in zip(starts, (600, 700), opens, strict=True):
        if at < mark:
            arena.free(start + at, mark - at)
    assert arena.alloc(size) == starts[taken] + opens[taken]


# --- the walk


def check_walk(plan: Schedule) -> None:
    """Walk and assert after each allocation that nothing alive overlaps and the marks cover all."""

    def look(walk: Walk, backend: int) -> None:
        held = [(walk.address[i], walk.size[i]) for i, owner in enumerate(walk.owner) if owner == backend]
        check_apart(held)
        assert sum(walk.arenas[backend].peaks) >= sum(n for _, n in held)

    Walk(plan, look).run()


@given(graphs(), COPIES, st.booleans())
def test_live_tensors_never_overlap(graph: Graph, n_copies: int, op_offload: bool) -> None:
    """At no time do two tensors that are still needed share memory."""
    check_walk(schedule(graph, (DEVICE, DEVICE), n_copies=n_copies, op_offload=op_offload))


@given(graphs(), COPIES)
def test_only_kept_tensors_hold_memory_at_the_end(graph: Graph, n_copies: int) -> None:
    """When the graph is done only outputs, and tensors that nobody read, still hold memory."""
    plan = schedule(graph, (DEVICE, DEVICE), n_copies=n_copies)
    walk = Walk(plan).run()
    read = {s for i, _ in plan.nodes for s in plan.src[i]}
    viewed = {t.view for t in plan.tensors}
    for i, owner in enumerate(walk.owner):
        assert owner == NONE or plan.flags[i] & OUTPUT or i not in read or i in viewed


@given(graphs(n_devices=2), COPIES)
def test_equal_devices_are_interchangeable(graph: Graph, n_copies: int) -> None:
    """Where no tie between devices is to be broken, exchanging two equal devices exchanges their bytes."""
    one = allocate(schedule(graph, (DEVICE, DEVICE), n_copies=n_copies, op_offload=False))
    for t in graph.tensors:
        t.home = 1 - t.home if t.home >= 0 else t.home
        t.pinned = 1 - t.pinned if t.pinned >= 0 else t.pinned
    two = allocate(schedule(graph, (DEVICE, DEVICE), n_copies=n_copies, op_offload=False))
    assert one == (two[1], two[0], two[2])


@given(st.lists(graphs(), min_size=1, max_size=3))
def test_reservations_keep_the_largest(some: list[Graph]) -> None:
    """A buffer of one chunk is as large as the largest of the graphs needs, in any order."""
    plans = [schedule(g, (DEVICE, DEVICE)) for g in some]
    alone = [tuple(map(sum, allocate(p))) for p in plans]
    assert reserve(plans) == reserve(plans[::-1]) == tuple(map(max, zip(*alone, strict=True)))


def test_a_buffer_is_replaced_when_a_chunk_must_grow() -> None:
    """What counts is the last reservation for which a chunk, not the sum, had to grow."""
    assert held([[(100, 100)], [(120,)]]) == (120,)
    assert held([[(100, 100)], [(100, 50)]]) == (200,)
    assert held([[(100,)], [(50, 1)]]) == (51,)


def test_no_graph_reserves_nothing() -> None:
    """Without graphs there are no buffers."""
    assert reserve([]) == ()


@given(graphs())
def test_chunks_take_no_less_than_the_live_tensors(graph: Graph) -> None:
    """Where buffers are limited the chunks together still hold everything that is alive at once."""
    check_walk(schedule(graph, (VULKAN, VULKAN)))


@given(graphs())
def test_metal_tensors_never_overlap(graph: Graph) -> None:
    """The same holds where the backend asks for more than the result."""
    sizes_alone = replace(BACKENDS["metal"], ops=None, conditions={}, graph_optimize=None)
    check_walk(schedule(graph, (sizes_alone,) * 2))


def test_a_cast_reads_itself() -> None:
    """A node that names itself as a source is placed once and freed after its last reader."""
    make = Maker()
    x = make.node("MUL_MAT", (1024,), make.weight((1, 1024), 0), make.leaf((1,), flags=INPUT))
    cast = make.node("CPY", (1024,), x)
    make.graph.tensors[cast].src = (x, cast)
    make.node("MUL_MAT", (1024,), make.weight((1, 1024), 0), cast)
    walk = Walk(schedule(make.graph, (DEVICE,))).run()
    assert walk.owner[cast] == NONE
    assert walk.arenas[0].peaks == (128 + 2 * 4096,)


def test_in_place_writes_over_a_source() -> None:
    """An operation writes over a source that nobody else reads, and not over one that lives on."""
    for flags, readers, in_place in ((0, 1, True), (OUTPUT, 1, False), (0, 2, False)):
        make = Maker()
        x = make.leaf((1024,), flags=INPUT)
        y = make.node("MUL_MAT", (1024,), make.weight((1, 1024), 0), x, flags=flags)
        z = [make.node("SCALE", (1024,), y) for _ in range(readers)]
        walk = Walk(schedule(make.graph, (DEVICE,))).run()
        assert (walk.address[z[0]] == walk.address[y]) is in_place


def test_in_place_frees_the_rest() -> None:
    """What a source held beyond the size of its successor, as scratch does, is free at once."""
    make = Maker()
    q = make.node("MUL_MAT", (128, 8, 4), make.weight((1, 128), 0), make.leaf((1, 8, 4), flags=INPUT))
    k, v = (make.leaf((128, 256, 4), "q8_0", usage=CACHE, home=0) for _ in range(2))
    fa = make.node("FLASH_ATTN_EXT", (128, 8, 4), q, k, v)
    scaled = make.node("SCALE", (128, 8, 4), fa)
    walk = Walk(schedule(make.graph, (DEVICE,))).run()
    assert walk.address[scaled] == walk.address[fa]
    assert walk.size[fa] == walk.size[scaled] + 2 * 128 * 256 * 4 * 2


IN_PLACE = """FILL SCALE DIAG_MASK_ZERO DIAG_MASK_INF ADD ADD_ID ADD1 SUB MUL DIV SQR SQRT LOG UNARY ROPE ROPE_BACK SILU_BACK
    RMS_NORM RMS_NORM_BACK CLAMP SOFT_MAX SOFT_MAX_BACK"""


@pytest.mark.parametrize("op", [*IN_PLACE.split(), "GLU", "CONT", "SIN", "CUMSUM", "SET_ROWS"])
def test_which_operations_write_in_place(op: str) -> None:
    """The engine's list (ggml-alloc.c:20-52); anything else takes memory of its own."""
    make = Maker()
    y = make.node("MUL_MAT", (1024,), make.weight((1, 1024), 0), make.leaf((1,), flags=INPUT))
    z = make.node(op, (1024,), y)
    walk = Walk(schedule(make.graph, (DEVICE,))).run()
    assert (walk.address[z] == walk.address[y]) is (op in IN_PLACE.split())


@pytest.mark.parametrize(
    "change", [{}, {"ne": (512, 2, 1, 1)}, {"nb": (4, 4096, 4096, 8192)}, {"type": BY_NAME["i32"]}]
)
def test_only_an_equal_source_is_written_over(change: dict[str, object]) -> None:
    """Type, extents and strides are the result's, or it takes memory of its own; a later source may serve."""
    make = Maker()
    w, x = make.weight((1, 1024), 0), make.leaf((1,), flags=INPUT)
    a, b = make.node("MUL_MAT", (1024,), w, x), make.node("MUL_MAT", (1024,), w, x)
    z = make.node("ADD", (1024,), a, b)
    for name, value in change.items():
        setattr(make.graph.tensors[a], name, value)
    walk = Walk(schedule(make.graph, (DEVICE,))).run()
    assert walk.address[z] == walk.address[b if change else a]


def test_a_viewed_source_is_not_written_over() -> None:
    """While a view of a source has readers its memory stays, and goes when the last of both has read."""
    make = Maker()
    y = make.node("MUL_MAT", (1024,), make.weight((1, 1024), 0), make.leaf((1,), flags=INPUT))
    view = make.view(y)
    z = make.node("SCALE", (1024,), y)
    make.node("ADD", (1024,), z, view)
    walk = Walk(schedule(make.graph, (DEVICE,)))
    walk.begin()
    nodes = [i for i, _ in walk.plan.nodes]
    walk.advance(0, nodes.index(z) + 1)
    assert walk.address[z] != walk.address[y]
    assert walk.owner[y] == 0
    walk.advance(nodes.index(z) + 1, len(nodes))
    assert walk.owner[y] == NONE
    assert walk.children == [0] * len(walk.children)
    assert not any(walk.views)


def test_the_most_that_is_alive() -> None:
    """The most bytes held at once, without gaps; the tensors behind a mark are those of the graph that needs most."""
    make = Maker()
    w, x = make.weight((1, 1024), 0), make.leaf((1,), flags=INPUT)
    a = make.node("MUL_MAT", (1024,), w, x)
    b = make.node("SIN", (1024,), a)
    empty = make.node("SIN", (0,), a)  # takes nothing, so it is not named
    c = make.node("GLU", (2048,), b)
    make.node("GLU", (16,), c, empty)
    plan = schedule(make.graph, (DEVICE,))
    assert most_alive(plan) == (3 * 4096, 32)
    assert allocate(plan) == ((128 + 4 * 4096,), (32,)), (
        "the copy of the input, and the gap that it and a tensor left"
    )
    small = Maker()
    small.node("MUL_MAT", (8,), small.weight((1, 8), 0), small.leaf((1,), flags=INPUT))
    for plans in ([schedule(small.graph, (DEVICE,)), plan], [plan, schedule(small.graph, (DEVICE,))]):
        assert [(t.name, t.op, t.n_bytes) for t in fullest(plans, 0)] == [
            (f"t{c}", "GLU", 8192), (f"t{b}", "SIN", 4096)
        ]  # fmt: skip


def test_sizes_are_padded_to_the_alignment() -> None:
    """Every tensor starts and ends at a multiple of the backend's alignment: 128 bytes, 32 on the CPU."""
    make = Maker()
    x = make.leaf((1,), flags=INPUT)
    make.node("MUL_MAT", (1,), make.weight((1, 1), 0), x)
    assert allocate(schedule(make.graph, (DEVICE,))) == ((256,), (32,))


@pytest.mark.parametrize("name", NAMES)
def test_fullest_names_what_is_alive(name: str) -> None:
    """The tensors alive at the high-water mark take no more than it, largest first; most of it, in truth."""
    plans = trace(name).plans()
    for b, n_bytes in enumerate(reserve(plans)):
        live = fullest(plans, b)
        sizes = [t.n_bytes for t in live]
        assert sizes == sorted(sizes, reverse=True)
        assert n_bytes / 2 <= sum(sizes) <= n_bytes
        assert all(t.name for t in live)


@given(graphs(), st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=10))
def test_what_is_kept_alive_holds_its_memory(graph: Graph, pairs: list[tuple[int, int]]) -> None:
    """A tensor that a backend keeps until a node is not freed, nor written over, before that node has run."""
    asked: list[tuple[int, int]] = []

    def keep_some(g: SplitGraph, keep: Keep) -> None:
        for back, ahead in pairs:
            here = range(g.start, g.end)
            until = here[ahead % len(here)]
            kept = g.nodes[here[back % len(here)]]
            if g.nodes.index(kept) <= until:
                keep(kept, g.nodes[until])
                asked.append((kept, g.nodes[until]))

    plan = schedule(graph, (replace(DEVICE, graph_optimize=keep_some),) * 2)
    walk = Walk(plan)
    walk.begin()
    for at, (i, _) in enumerate(plan.nodes):
        for kept, until in asked:
            if until == i and walk.loose[kept]:
                assert kept == i or walk.owner[kept] != NONE
        walk.advance(at, at + 1)
    check_walk(plan)
