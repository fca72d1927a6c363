"""Metal: the order in which it runs nodes, the groups it fuses, and what it keeps alive."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from nodes import leaf, node, runs
from test_backends_vulkan import made

from vramfit import Gpu, Settings, read
from vramfit._devices import backend_of
from vramfit._estimate.context_ranges import NotStraight, Stretch
from vramfit._estimate.estimate import estimate
from vramfit._estimate.reserve import reserve_context
from vramfit._ggml.backends import BACKENDS, backend
from vramfit._ggml.backends.metal.order import graph_optimize
from vramfit._ggml.backends.nouns import SplitGraph
from vramfit._ggml.types import BY_NAME
from vramfit._llama.cparams import resolve
from vramfit._llama.placement import place

METAL = BACKENDS["metal"]
CHOICE = "g SOFT_MAX l\nr RESHAPE g >g\ns ARGSORT g\nv VIEW s >s\nw GET_ROWS r v"


def ordered(text: str) -> tuple[list[str], dict[str, set[str]]]:
    """The groups in their order, each as its nodes' names, and what is kept alive until when."""
    graph = made(text)
    sources = [t.src for t in graph.tensors]
    uses = [sum(x.count(i) for x in sources) for i in range(len(sources))]
    kept: dict[str, set[str]] = {}
    split = SplitGraph(graph.tensors, sources, graph.nodes, 0, len(graph.nodes), uses.__getitem__)
    found = graph_optimize(
        split, lambda t, until: kept.setdefault(graph.names[until], set()).add(graph.names[t])
    )
    return [" ".join(graph.names[i] for i in group) for group in found], kept


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        # What can run beside those before it is taken from behind one that cannot.
        ("a MUL_MAT w x\nb SCALE a\nc MUL_MAT w x", ["a", "c", "b"]),
        ("a MUL_MAT w x\nb SCALE a\nc SCALE b\nd MUL_MAT w x", ["a", "d", "b", "c"]),
        # Not over one that must not be moved, nor past one that writes what it reads.
        ("a MUL_MAT w x\nb SCALE a\ns SOFT_MAX y\nc MUL_MAT w x", ["a", "b", "s", "c"]),
        ("a MUL_MAT w x\nb SCALE a\ns SET_ROWS b i k >k\nc MUL_MAT k x", ["a", "b", "s", "c"]),
        # Norms and sums are groups; a node that somebody else reads is none of one.
        ("n RMS_NORM x\nm MUL n w\nb ADD m y", ["n m b"]),
        ("n RMS_NORM x\nm MUL n w\no SCALE n", ["n", "m", "o"]),
        ("a ADD x y\nb ADD a y\nc ADD b y", ["a b c"]),
        ("c SSM_CONV x w\nu UNARY c", ["c u"]),
        ("c SSM_CONV x w\nu UNARY c neg", ["c", "u"]),
    ],
)
def test_order(text: str, wanted: list[str]) -> None:
    """Groups as the engine's table has them, reordered as it does (ggml-metal-common.cpp:249)."""
    assert ordered(text)[0] == wanted


def test_what_looks_like_a_fusion_keeps_what_it_reads() -> None:
    """Whether or not it is one: inputs from outside live until its last node has run (ggml-metal-fusion.cpp:770)."""
    assert ordered("n RMS_NORM x\nm MUL n w\nb ADD m y\no SCALE n")[1] == {"b": {"x", "w", "y"}}
    assert ordered(CHOICE)[1] == {"w": {"l"}}


def test_what_metal_runs() -> None:
    """No types without a kernel, no copy from one quantized type to another, sums of one float type."""
    x = leaf((256, 64))
    for kind, wanted in (("q4_K", True), ("tq1_0", False), ("nvfp4", False), ("bf16", True)):
        assert runs(METAL, node("MUL_MAT", (8, 64), [leaf((256, 8), BY_NAME[kind]), x])) is wanted
    half = leaf((256, 64), BY_NAME["f16"])
    assert runs(METAL, node("MUL_MAT", (8, 64), [leaf((256, 8), BY_NAME["q8_0"]), half]))
    assert not runs(METAL, node("MUL_MAT", (8, 64), [leaf((256, 8), BY_NAME["bf16"]), half]))
    assert not runs(METAL, node("ADD", (256, 64), [x, half]))
    assert not runs(METAL, node("CPY", (256,), [leaf((256,), BY_NAME["q8_0"]), x], BY_NAME["q4_0"]))
    assert not runs(METAL, node("GATED_DELTA_NET", (8,), [x, x, leaf((48, 4))]))


def test_the_largest_buffer_is_what_the_driver_reports() -> None:
    """maxBufferLength of Metal, the largest allocation of SYCL; none where it is not known."""
    for name in ("metal", "sycl"):
        assert backend(name).max_buffer == 0
        assert backend(name, max_buffer=1 << 33).max_buffer == 1 << 33


def test_an_order_that_hangs_on_where_weights_lie_takes_one_percent_more(truth: Path) -> None:
    """Parts of weights touch others in a buffer, or not: what the engine reserved with one layout is raised, the host's is not."""
    cards = [Gpu(f"card{i}", mib << 20, backend="metal") for i, mib in enumerate((8192, 16384))]
    settings = Settings(n_ctx=512, n_outputs_max=1, flash_attn="on")
    model = read(truth / "arch/deepseek4-moe.gguf")
    found = estimate(model, cards, settings)
    assert [g.compute for g in found.gpus] == [29403200 * 101 // 100, 77238016 * 101 // 100]
    rules = [backend_of(c) for c in cards]
    placed = place(model, cards, settings)
    with pytest.raises(NotStraight):
        Stretch(model, placed, lambda i: resolve(model, replace(settings, n_ctx=512 + 256 * i)), 2, rules)
    plain = read(truth / "arch/llama-dense.gguf")
    reserved = reserve_context(plain, place(plain, cards, settings), resolve(plain, settings), rules)
    assert not reserved.by_address
    assert [g.compute for g in estimate(plain, cards, settings).gpus] == list(reserved.needs[:-1])
