"""Vulkan: the order in which it runs nodes, what it runs, what differs by card, and every row of the real backend."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nodes import attention, leaf, node, runs
from small import dense

from vramfit._base.errors import GpuError
from vramfit._devices import Gpu, backend_of
from vramfit._estimate.estimate import estimate
from vramfit._ggml.backends import BACKENDS, backend
from vramfit._ggml.backends.nouns import SplitGraph
from vramfit._ggml.backends.vulkan.order import graph_optimize
from vramfit._ggml.galloc import Arena
from vramfit._ggml.graph import HOST, NONE, OUTPUT, Tensor
from vramfit._ggml.types import BY_NAME, TensorType
from vramfit._llama.loader import can_use
from vramfit._llama.model import Home, Model, Weight
from vramfit._llama.model import Tensor as ModelTensor
from vramfit._llama.params import Settings
from vramfit._llama.placement import place
from vramfit._sources.load import read

VULKAN = BACKENDS["vulkan"]
F32, F16, BF16, Q8, I32 = (BY_NAME[n] for n in ("f32", "f16", "bf16", "q8_0", "i32"))
SILU, NEG = 10, 2


class Made:
    """A split in the making. Nodes are named; a source that is no node is a leaf."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.names: list[str] = []
        self.nodes: list[int] = []

    def at(self, name: str, shape: tuple[int, ...] = (64,)) -> int:
        if name not in self.names:
            self.tensors.append(leaf(shape))
            self.names.append(name)
        return self.names.index(name)

    def add(
        self, name: str, op: str, *src: str, view: str = "", shape: tuple[int, ...] = (64,), kind: int = SILU
    ) -> None:
        sources = tuple(self.at(s) for s in src)
        t = leaf(shape)
        t.op, t.src, t.params = op, sources, (kind,)
        if view:
            root = self.tensors[self.at(view)]
            t.view = self.at(view) if root.view == NONE else root.view
        self.tensors.append(t)
        self.names.append(name)
        self.nodes.append(len(self.tensors) - 1)

    def batches(self) -> tuple[list[str], dict[str, set[str]]]:
        """The batches, each as its nodes' names, and what is kept alive until when."""
        sources = [t.src for t in self.tensors]
        uses = [sum(x.count(i) for x in sources) for i in range(len(sources))]
        kept: dict[str, set[str]] = {}
        split = SplitGraph(self.tensors, sources, self.nodes, 0, len(self.nodes), uses.__getitem__)
        found = graph_optimize(
            split, lambda t, until: kept.setdefault(self.names[until], set()).add(self.names[t])
        )
        return [" ".join(self.names[i] for i in batch) for batch in found], kept


def made(text: str) -> Made:
    """Nodes from lines "name OP source source >viewed"; "OUT" after a name marks an output."""
    graph = Made()
    for line in text.strip().splitlines():
        name, op, *rest = line.split()
        view = next((x[1:] for x in rest if x[0] == ">"), "")
        kind = NEG if "neg" in rest else SILU
        graph.add(
            name, op, *(x for x in rest if x[0] != ">" and x not in ("out", "neg")), view=view, kind=kind
        )
        if "out" in rest:
            graph.tensors[-1].flags = OUTPUT
    return graph


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        # What needs nothing of each other runs together; what reads a batch waits for it.
        ("a MUL_MAT w x\nb SCALE a\nc MUL_MAT w x", ["a c", "b"]),
        # Views come behind the others of a batch; behind an addition they wait.
        ("a MUL_MAT w x\nv VIEW a >a\nc MUL_MAT w x", ["a c v"]),
        ("a MUL_MAT w x\nb ADD a y\nv VIEW a >a\nc SCALE b", ["a b", "v c"]),
        # Fused pairs stay together: a norm and its factor, with views between; an addition only right behind its product.
        ("n RMS_NORM x\nv VIEW y >y\nm MUL n w", ["n m v"]),
        ("n RMS_NORM x\no MUL_MAT w z\nm MUL n w", ["n o", "m"]),
        ("a MUL_MAT w x\nv VIEW y >y\nb ADD a y", ["a v", "b"]),
        ("a MUL_MAT w x\nb ADD a y\nc ADD b z", ["a b c"]),
        ("a MUL_MAT_ID w x\nb ADD_ID a y\nc MUL b z", ["a b c"]),
        ("a MUL_MAT_ID w x\nb MUL a y", ["a b"]),
        ("a MUL_MAT_ID w x\nb ADD a y", ["a", "b"]),
        ("a SSM_CONV w x\nb ADD a y\nc UNARY b", ["a b c"]),
        ("a SSM_CONV w x\nb UNARY a", ["a b"]),
        # Readers are pulled forward, over what lies between, if what else they read has run.
        ("a MUL_MAT w x\nb ADD a y\no SCALE z\nc ADD b z", ["a b c o"]),
        ("a MUL_MAT w x\nb ADD a y\no SCALE z\nc ADD b o", ["a b o", "c"]),
        ("z SCALE x\nu UNARY x\ns MUL_MAT w x\nt SCALE s\nm MUL u y", ["z u m s", "t"]),
        ("z SCALE x\nu UNARY x neg\ns MUL_MAT w x\nt SCALE s\nm MUL u y", ["z u s", "t m"]),
        ("z SCALE x\nu UNARY x\ns MUL_MAT w x\nm MUL u s", ["z u s", "m"]),
        # Rotated keys go to their cache at once.
        ("q SCALE x\nr ROPE x p\no SCALE y\nv VIEW r >r\ns SET_ROWS v i k >k", ["q r v s o"]),
        ("q SCALE x\nr ROPE x p out\no SCALE y\nv VIEW r >r\ns SET_ROWS v i k >k", ["q r o v", "s"]),
        ("q SCALE x\nr ROPE x p\no SCALE y\nv VIEW r >r\ns SET_ROWS v i k >k\nt SCALE r", ["q r o v", "s t"]),
        ("q SCALE x\nn RMS_NORM x\nm MUL n w\no SCALE y\nr ROPE m p", ["q n m r o"]),
        # Who writes what somebody reads stays behind him.
        ("a MUL_MAT k x\ns SET_ROWS v i k >k\nb SCALE y", ["a b", "s"]),
        ("s SET_ROWS v i k >k\na MUL_MAT k x", ["s", "a"]),
        ("s SET_ROWS v i k >k\nc SET_ROWS w j k >k", ["s", "c"]),
        # Groups that a shader knows are never cut.
        ("a SCALE x\nn RMS_NORM y\nm MUL n w\nb ADD m z\nc SCALE x", ["a c", "n m b"]),
        ("r ROPE x p\nv VIEW r >r\ns SET_ROWS v i k >k\nc SCALE x", ["r v s", "c"]),
        (
            "a SCALE x\ng GET_ROWS x i\np PERMUTE g >g\nc CONT p\nm CPY y h\nr RESHAPE m >m\nb ADD c r\nt TOP_K b",
            ["a", "g p c m r b t"],
        ),
    ],
)  # fmt: skip
def test_order(text: str, wanted: list[str]) -> None:
    """Batches of nodes that need nothing without a place, as the engine gathers them (ggml-vulkan.cpp:14663)."""
    assert made(text).batches()[0] == wanted


def test_a_batch_looks_20_nodes_ahead() -> None:
    """The twentieth is looked at, the next is not."""
    graph = made(
        "a SCALE x\nb SCALE a\n" + "\n".join(f"c{i} SCALE b" for i in range(17)) + "\nd SCALE x\ne SCALE x"
    )
    assert graph.batches()[0][0] == "a d"


CHOICE = """
{0}r RESHAPE {1} >g
s ARGSORT {1}
v VIEW s >s
w GET_ROWS r v
e RESHAPE w >w
n SUM_ROWS e
c CLAMP n
d DIV e c
f RESHAPE d >d
"""


@pytest.mark.parametrize("behind", ["SCALE", "MUL"])
def test_a_choice_of_experts_keeps_what_it_reads(behind: str) -> None:
    """Logits live until the group's last node has run, the scale behind it included, which itself takes its own turn."""
    graph = made(CHOICE.format("g SOFT_MAX logits\n", "g") + f"z {behind} f y")
    batches, kept = graph.batches()
    assert batches == ["g r s v w e n c d f", "z"]
    assert kept == {"z" if behind == "SCALE" else "f": {"logits"}}


def test_other_choices_and_gates_are_groups_too() -> None:
    """A sigmoid with a bias, the root of a softplus, a softmax behind the choice or alone, a gated post-mix."""
    bias = CHOICE.replace("s ARGSORT {1}", "b ADD {1} bias\ns ARGSORT b")
    for text, last, inputs in (
        (bias.format("g UNARY logits\n", "g"), "f", {"logits", "bias"}),
        (bias.format("u UNARY logits\ng SQRT u\n", "g"), "f", {"logits", "bias"}),
        ("g SOFT_MAX logits\nr RESHAPE g >g\ns ARGSORT g\nv VIEW s >s\nw GET_ROWS r v", "w", {"logits"}),
        (
            "s ARGSORT l\nv VIEW s >s\nw GET_ROWS r v\ne RESHAPE w >w\ng SOFT_MAX e\nf RESHAPE g >g",
            "f",
            {"l", "r"},
        ),
        ("a SCALE x\nu UNARY a\nb SCALE u\np DSV4_HC_POST y z b", "p", {"x", "y", "z"}),
    ):
        batches, kept = made(text).batches()
        assert len(batches) == 1
        assert kept == {last: inputs}


@given(st.lists(st.tuples(st.sampled_from(["SCALE", "MUL", "ADD", "UNARY", "RMS_NORM", "VIEW", "MUL_MAT", "ROPE", "SET_ROWS"]),
                          st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=60))  # fmt: skip
def test_every_node_runs_once_behind_what_it_reads(recipe: list[tuple[str, int, int]]) -> None:
    """Whatever the graph: the order holds each node once, and behind its sources."""
    graph = Made()
    for n, (op, back, other) in enumerate(recipe):
        a, b = (f"n{n - 1 - x}" if n > x else f"leaf{x}" for x in (back, other))
        graph.add(
            f"n{n}", op, a, *(() if op == "VIEW" else (b,)), view=a if op in ("VIEW", "SET_ROWS") else ""
        )
    found = [name for batch in graph.batches()[0] for name in batch.split()]
    assert sorted(found) == sorted(f"n{n}" for n in range(len(recipe)))
    place_of = {name: i for i, name in enumerate(found)}
    for i in graph.nodes:
        for s in graph.tensors[i].src:
            assert place_of.get(graph.names[s], -1) < place_of[graph.names[i]]


@pytest.mark.parametrize(
    ("k", "v", "wanted"),
    [(Q8, F16, True), (BF16, BF16, True), (BF16, F16, False), (F16, BF16, False), (BY_NAME["q4_K"], F16, False),
     (BY_NAME["iq4_nl"], BY_NAME["iq4_nl"], True)],
)  # fmt: skip
def test_attention_wants_both_or_neither_in_bf16(k: TensorType, v: TensorType, wanted: bool) -> None:
    assert runs(VULKAN, attention(64, 128, k_type=k, v_type=v)) is wanted


def test_what_vulkan_runs() -> None:
    """Products of what shaders read; experts not in full precision; Mamba-2 scans alone; sums of f32 and f16."""
    x = leaf((256, 4))
    for kind, wanted in (("q4_K", True), ("tq1_0", True), ("q8_K", False), ("bf16", True)):
        assert runs(VULKAN, node("MUL_MAT", (8, 4), [leaf((256, 8), BY_NAME[kind]), x])) is wanted
    assert not runs(VULKAN, node("MUL_MAT", (8, 4), [leaf((256, 8), BF16), leaf((256, 4), F16)]))
    assert not runs(VULKAN, node("MUL_MAT", (8, 4), [leaf((256, 8), F16), leaf((256, 4), BF16)]))
    experts = [leaf((256, 8, 4), Q8), leaf((256, 2, 4)), leaf((2, 4), I32)]
    assert runs(VULKAN, node("MUL_MAT_ID", (8, 2, 4), experts))
    assert not runs(VULKAN, node("MUL_MAT_ID", (8, 2, 4), experts, params=(0, 0, 0, 10)))
    gap = leaf((256, 8), Q8)
    gap.nb = (34, 2 * gap.nb[1], gap.nb[2], gap.nb[3])
    assert not runs(VULKAN, node("MUL_MAT", (8, 4), [gap, x]))
    scan = [
        leaf((128, 64, 8, 1)),
        leaf((64, 8, 4)),
        leaf((8, 4)),
        leaf((1, 8)),
        leaf((128, 1, 4)),
        leaf((128, 1, 4)),
    ]
    assert runs(VULKAN, node("SSM_SCAN", (64,), scan))
    assert not runs(VULKAN, node("SSM_SCAN", (64,), [leaf((96, 64, 8, 1)), *scan[1:]]))
    assert not runs(VULKAN, node("SSM_SCAN", (64,), [*scan[:3], leaf((128, 8)), *scan[4:]]))
    assert not runs(VULKAN, node("ADD", (64,), [leaf((64,), BF16), leaf((64,))]))
    assert runs(VULKAN, node("GET_ROWS", (256, 4), [leaf((256, 9), BY_NAME["iq4_nl"]), leaf((4,), I32)]))
    assert not runs(VULKAN, node("FLASH_ATTN_BACK", (64,), [x]))
    assert runs(VULKAN, node("CPY", (64,), [x, leaf((256, 4), Q8)], Q8))
    assert not runs(VULKAN, node("CPY", (64,), [leaf((256, 4), Q8), leaf((256, 4), F16)], F16))


def card(**known: Any) -> Gpu:
    return replace(Gpu("card", 48 << 30, backend="vulkan"), **known)


def test_what_a_driver_reports_replaces_the_largest_figures() -> None:
    """Unknown, an alignment is the largest there is, and no tensor too large; only a known card is exact."""
    assert (VULKAN.alignment, VULKAN.max_tensor, VULKAN.max_buffer, VULKAN.exact) == (256, 0, 1 << 30, False)
    assert backend_of(card()) is VULKAN
    rules = backend_of(card(alignment=16, host_alignment=64, max_tensor_bytes=2**32 - 1))
    assert (rules.alignment, rules.max_tensor, rules.max_buffer, rules.exact) == (
        16,
        2**32 - 1,
        1 << 30,
        True,
    )
    assert rules.pinned is not None
    assert (rules.pinned.alignment, rules.pinned.max_buffer, rules.pinned.buffer_extra) == (64, 1 << 30, 32)
    assert not backend_of(card(alignment=16, host_alignment=64)).exact
    assert not backend_of(card(alignment=16, max_tensor_bytes=1 << 30)).exact
    assert not backend_of(card(host_alignment=64, max_tensor_bytes=1 << 30)).exact
    small = backend("vulkan", max_buffer=1 << 28)
    assert small.pinned is not None
    assert small.max_buffer == small.pinned.max_buffer == 1 << 28


@pytest.mark.parametrize(
    ("field", "value"),
    [("alignment", 48), ("alignment", 512), ("alignment", 0), ("host_alignment", 100), ("max_tensor_bytes", 1000),
     ("max_buffer_bytes", 4)],
)  # fmt: skip
def test_limits_that_no_driver_reports_are_refused(field: str, value: int) -> None:
    with pytest.raises(GpuError, match=f"card: {field}={value}"):
        card(**{field: value})


def test_tensors_above_the_limit_stay_on_the_host() -> None:
    """Neither a node nor a weight that a shader cannot reach is the card's (ggml-vulkan.cpp:15307)."""
    rules = backend("vulkan", max_tensor=1 << 27)
    wide = leaf((1 << 20, 33))
    assert not runs(rules, node("SCALE", (1 << 20, 33), [wide]))
    assert not runs(rules, node("SUM", (1,), [wide]))
    assert runs(rules, node("SCALE", (1 << 20, 32), [leaf((1 << 20, 32))]))
    assert runs(VULKAN, node("SCALE", (1 << 20, 33), [wide]))
    model = dense(2, n_vocab=1 << 18)
    for limit, wanted in ((1 << 27, HOST), (1 << 30, 0)):
        placed = place(model, [card(max_tensor_bytes=limit)], Settings())
        on = {w.tensor.name: d for w, d in zip(model.weights, placed.weights, strict=True)}
        assert on["output.weight"] == wanted, "its product with 512 tokens is 512 MiB"
        assert on["blk.1.attn_q.weight"] == 0


@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_0", "q4_K", "q6_K", "mxfp4"])
@pytest.mark.parametrize("known", [{}, {"max_tensor_bytes": 2**32 - 1}])
def test_weights_are_placed_alike_on_cards_known_and_unknown(kind: str, known: dict[str, int]) -> None:
    """All but the embeddings are the card's, whatever the type."""
    model = dense(2, weight_type=kind)
    assert place(model, [card(**known)], Settings()).weights.count(HOST) == 1


def test_each_pinned_buffer_takes_32_bytes_more() -> None:
    """Chunks of a host buffer that Vulkan pins, where anything lies in them (ggml-vulkan.cpp:13077)."""
    arena = Arena(1000, 32)
    before = arena.peaks
    assert before == ()
    arena.alloc(600)
    arena.alloc(600)
    after = arena.peaks
    assert after == (632, 632)


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.oracle)])
def test_rows_of_the_real_backend_come_out_to_the_byte(truth: Path, every: int) -> None:
    """48 loads on Mesa's software device, or a part: weights, context and compute, of the card and of the host."""
    with gzip.open(truth / "backend-rows-vulkan.jsonl.gz", "rt") as lines:
        rows = list(map(json.loads, lines))
    assert len(rows) == 48
    models: dict[str, Model] = {}
    for row in rows[::every]:
        if row["file"] not in models:
            models[row["file"]] = read(truth / row["file"])
        lavapipe = card(alignment=row["alignment"], host_alignment=64, max_tensor_bytes=2**32 - 1)
        found = estimate(models[row["file"]], [lavapipe], Settings(**row["settings"]))
        assert found.exact
        for ours, theirs in ((found.gpus[0], row["gpus"][0]), (found.host, row["host"])):
            assert {k: getattr(ours, k) for k in theirs} == theirs, (row["file"], row["settings"])


def test_what_moves_to_the_host_for_its_size_is_exact() -> None:
    """Every limit of the driver is known, and one tensor is larger or none."""
    model = replace(dense(n_vocab=1 << 19, weight_type="f16"), architecture="llama")
    known = {"alignment": 16, "host_alignment": 64}
    for limit in (1 << 30, 1 << 27):
        found = estimate(
            model, [card(max_tensor_bytes=limit, **known)], Settings(n_ctx=4096, flash_attn="on")
        )
        assert found.exact, found.compute_note


def test_memory_that_a_card_pins_is_for_what_it_could_run() -> None:
    """A weight of the host that no shader reaches lies in plain memory, with the CPU's alignment (llama-model.cpp:518)."""
    model = replace(dense(n_vocab=(1 << 19) + 1, weight_type="f16"), architecture="llama")
    known = {"alignment": 16, "host_alignment": 4096}
    rows = ((1 << 19) + 1) * 256 * 2
    settings = Settings(n_ctx=4096, flash_attn="on")
    pinned = estimate(model, [card(max_tensor_bytes=1 << 31, **known)], settings)
    assert pinned.host.model == rows + 3584, "rows end 512 bytes behind a page"
    plain = estimate(model, [card(max_tensor_bytes=1 << 27, **known)], settings)
    assert plain.host.model == 2 * rows, "embeddings and output"


def test_tied_embeddings_are_twice_on_the_host_where_the_card_runs_their_rows_alone() -> None:
    """Rows are looked up in memory that the card pins, products of the output are too large for it (llama-model.cpp:518)."""
    model = dense(n_vocab=1 << 17, tied=True, weight_type="f16")
    weights = [w._replace(op="GET_ROWS") if w.home is Home.INPUT else w for w in model.weights]
    model = replace(model, architecture="llama", weights=tuple(weights))
    rows = (1 << 17) * 256 * 2
    settings = Settings(n_ctx=512, flash_attn="on")
    for limit, copies in ((1 << 30, 1), (1 << 27, 2)):
        gpu = card(alignment=16, host_alignment=64, max_tensor_bytes=limit)
        assert estimate(model, [gpu], settings).host.model == copies * rows


def test_weights_of_rwkv_are_asked_about_with_made_up_sizes() -> None:
    """A state of 123 x 123 x 123 x 123 numbers and a result that is larger: 922,990,032 bytes in all (llama-model-loader.cpp:1022)."""
    weight = Weight(ModelTensor("blk.0.time_mix_first.weight", (64, 4), BY_NAME["f32"]), 0, op="RWKV_WKV6")
    assert not can_use(weight, backend("vulkan", max_tensor=922_990_031))
    assert can_use(weight, backend("vulkan", max_tensor=922_990_032))
    assert can_use(weight, VULKAN)
