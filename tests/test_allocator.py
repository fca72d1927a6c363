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
from vramfit._ggml.galloc import Arena, Walk, allocate, fullest, held, reserve
from vramfit._ggml.graph import CACHE, INPUT, NONE, OUTPUT, Graph
from vramfit._ggml.sched import PIPELINE_COPIES, Schedule, schedule

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
    check_walk(schedule(graph, (BACKENDS["metal"],) * 2))


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
