"""The proof of graphs: what it sees, and what it says. Where the engine is not installed, against stand-ins for it."""

from __future__ import annotations

import copy
import dataclasses
import io
import os
import pathlib
import random
import sys
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vramfit._ggml.graph import NONE, Graph, Tensor
from vramfit._ggml.types import BY_NAME
from vramfit._graphs import Run
from vramfit._graphs.context import GraphContext
from vramfit._graphs.models import builder_for, qwen2
from vramfit._llama.model import Model
from vramfit._llama.placement import Placement

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the tools are no part of the distribution

from tools.graphs.__main__ import main  # noqa: E402
from tools.graphs.campaign import Campaign, run  # noqa: E402
from tools.graphs.cases import SETTINGS, Case, cases, read, reservations  # noqa: E402
from tools.graphs.compare import first_difference, layer_difference, listing  # noqa: E402
from tools.graphs.draft import Draft, Key, Shape  # noqa: E402
from tools.graphs.keys import keys_of_engine, keys_read  # noqa: E402
from tools.graphs.ours import Unbuildable, alike, graph_of, recorded_lines, short_of  # noqa: E402
from tools.graphs.prove import Oracle, Refused, Report, Truth, Unable, prove, prove_case  # noqa: E402
from tools.graphs.vary import SWITCHES, Edit, applied, draw_edits, draw_overrides  # noqa: E402

HEADER = ROOT / "examples" / "qwen2.5-14b-instruct-1m-q8_0.gguf"
MODEL = read(HEADER)
ONE = {"one card": SETTINGS["one card"]}


def case() -> Case:
    return next(cases(HEADER, MODEL, ONE))


def built() -> Graph:
    c = case()
    return graph_of(c.model, reservations(c)[0], c.placement).graph


GRAPH = built()


def right(c: Case) -> list[Truth]:
    """An oracle that agrees with the library."""
    return [Truth(run, graph_of(c.model, run, c.placement).graph) for run in reservations(c)]


def changed(graph: Graph, i: int, **fields: object) -> Graph:
    """A copy of a graph in which one tensor has other fields."""
    tensors = list(graph.tensors)
    tensors[i] = copy.copy(tensors[i])
    for name, value in fields.items():
        setattr(tensors[i], name, value)
    return Graph(tensors, list(graph.leafs), list(graph.nodes))


CHANGES: dict[str, Callable[[Tensor], object]] = {
    "op": lambda t: "STEP",
    "type": lambda t: BY_NAME["f64"],
    "ne": lambda t: (t.ne[0] + 1, *t.ne[1:]),
    "nb": lambda t: (*t.nb[:3], t.nb[3] + 4),
    "src": lambda t: t.src[:-1],
    "view": lambda t: NONE if t.view != NONE else t.src[0],
    "flags": lambda t: t.flags ^ 2,
    "pinned": lambda t: t.pinned + 1,
}


@given(st.integers(0, len(GRAPH.nodes) - 1), st.sampled_from(sorted(CHANGES)))
@settings(max_examples=60, deadline=None)
def test_any_field_of_any_node_is_compared(number: int, name: str) -> None:
    """A graph with one field of one node changed first differs there."""
    i = GRAPH.nodes[number]
    other = changed(GRAPH, i, **{name: CHANGES[name](GRAPH.tensors[i])})
    found = first_difference(GRAPH, other)
    assert found is not None
    assert (found.order, found.number) == ("node", number)
    assert (found.ours, found.theirs) == (i, i)


def test_a_graph_is_itself() -> None:
    """Nothing differs between a graph and a copy of it whose tensors stand in another order."""
    n = len(GRAPH.tensors)
    back = [n - 1 - i for i in range(n)]
    tensors = [copy.copy(t) for t in reversed(GRAPH.tensors)]
    for t in tensors:
        t.src = tuple(back[s] for s in t.src)
        t.view = NONE if t.view == NONE else back[t.view]
    other = Graph(tensors, [back[i] for i in GRAPH.leafs], [back[i] for i in GRAPH.nodes])
    assert first_difference(GRAPH, other) is None


def test_another_weight_input_or_order_is_seen() -> None:
    """Sources are compared by role: a weight by name and home, an input by its place, a node by its position."""
    weight = next(i for i in GRAPH.nodes if GRAPH.tensors[i].op == "MUL_MAT")
    leaf = GRAPH.tensors[weight].src[0]
    assert "weight" in str(first_difference(GRAPH, changed(GRAPH, leaf, name="blk.9.attn_q.weight")))
    assert "home" in str(first_difference(GRAPH, changed(GRAPH, leaf, home=-3)))
    inputs = [i for i in GRAPH.leafs if not GRAPH.tensors[i].usage]
    other = Graph(GRAPH.tensors, [*inputs[1:], inputs[0]], GRAPH.nodes)
    found = first_difference(GRAPH, other)
    assert found is not None
    assert found.order == "input"
    shorter = Graph(GRAPH.tensors, GRAPH.leafs, GRAPH.nodes[:-1])
    assert str(first_difference(GRAPH, shorter)).startswith(
        f"node {len(GRAPH.nodes) - 1}: {len(GRAPH.nodes)} nodes"
    )


def test_a_source_made_elsewhere_is_seen() -> None:
    """A node that reads another node of the same layout differs."""
    i = next(
        i for i in GRAPH.nodes[40:] if GRAPH.tensors[i].op == "ADD" and len(set(GRAPH.tensors[i].src)) == 2
    )
    a, b = GRAPH.tensors[i].src
    assert "source 0" in str(first_difference(GRAPH, changed(GRAPH, i, src=(b, a))))


def test_offsets() -> None:
    """Offsets are compared exactly."""
    i = next(i for i in GRAPH.nodes if GRAPH.tensors[i].view != NONE)
    at = GRAPH.tensors[i].offset
    assert "offset" in str(
        first_difference(changed(GRAPH, i, offset=at + 64), changed(GRAPH, i, offset=at + 32))
    )


@pytest.mark.parametrize(
    ("op", "ours", "theirs", "same"),
    [
        ("MUL_MAT", (), (0, 1), False),
        ("MUL_MAT", (), (10, 0, 7), True),
        ("MUL_MAT_ID", (0, 0, 0, 10), (0, 0, 0, 0), False),
        ("FLASH_ATTN_EXT", (0, 1), (5, 1090519040), True),
        ("FLASH_ATTN_EXT", (), (5, 1090519040), False),
        ("SSM_SCAN", (), (1,), True),
        ("ROPE", (), (1, 2, 3), True),
    ],
)
def test_parameters_are_compared_as_far_as_rules_read_them(
    op: str, ours: tuple[int, ...], theirs: tuple[int, ...], same: bool
) -> None:
    i = GRAPH.nodes[0]
    a, b = changed(GRAPH, i, op=op, params=ours), changed(GRAPH, i, op=op, params=theirs)
    assert (first_difference(a, b) is None) == same


def test_pins_decide_nothing_with_one_backend() -> None:
    i = GRAPH.nodes[1]
    other = changed(GRAPH, i, pinned=-2)
    assert first_difference(GRAPH, other) is not None
    assert first_difference(GRAPH, other, pins=False) is None


def test_layers_that_are_no_repeats_are_seen() -> None:
    """A layer taken for a repeat of another that makes other nodes is told."""
    c = case()
    made = graph_of(c.model, reservations(c)[0], c.placement)
    kinds = alike(c.model, c.placement)
    assert kinds[3] == kinds[4] != kinds[0]
    assert not layer_difference(made, 3, made, 4)
    i = made.graph.nodes[made.starts[4] + 2]
    made.graph.tensors[i].flags |= 2
    assert layer_difference(made, 3, made, 4).startswith("node 2 of it")


def test_a_false_repeat_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """A builder whose graph is the engine's is wrong all the same if it takes unlike layers for repeats."""
    c = case()
    monkeypatch.setattr("tools.graphs.prove.alike", lambda model, placement: [0] * model.n_layer)
    monkeypatch.setattr(
        "tools.graphs.prove.layer_difference", lambda made, first, same, il: "else" if il == 9 else ""
    )
    found = prove_case(c, right)[0]
    assert found.outcome == "different"
    assert "layer 9 is taken for a repeat of layer 1: else" in found.what


def test_layers_that_stand_for_all_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an estimate builds, a few layers, is compared with those layers of the whole graph."""
    c = case()
    layers, short = short_of(c.model, reservations(c)[0], c.placement)
    assert 2 < len(layers) < MODEL.n_layer
    i = short.graph.nodes[short.starts[2] + 5]
    short.graph.tensors[i].flags |= 2
    monkeypatch.setattr("tools.graphs.prove.short_of", lambda model, run, placement: (layers, short))
    found = prove_case(c, right)[0]
    assert found.outcome == "different"
    assert f"layer {layers[2]} among those that stand for all: node 5" in found.what
    lost = short._replace(starts=short.starts[1:])
    monkeypatch.setattr("tools.graphs.prove.short_of", lambda model, run, placement: (layers, lost))
    assert "begin at" in prove_case(c, right)[0].what


def test_caches_are_told_apart() -> None:
    """A layer that reads another layer's cache of the same layout differs."""
    caches = [i for i, t in enumerate(GRAPH.tensors) if t.usage == 2]
    writers = [i for i in GRAPH.nodes if caches[4] in GRAPH.tensors[i].src]
    i = writers[-1]
    src = tuple(caches[0] if s == caches[4] else s for s in GRAPH.tensors[i].src)
    found = first_difference(GRAPH, changed(GRAPH, i, src=src))
    assert found is not None
    assert found.ours == i


def test_equal_reservations() -> None:
    assert [p.outcome for p in prove_case(case(), right)] == ["equal", "equal"]


def test_what_an_oracle_cannot_say() -> None:
    def refuses(c: Case) -> list[Truth]:
        raise Refused("no")

    def cannot(c: Case) -> list[Truth]:
        raise Unable("no engine")

    assert [p.outcome for p in prove_case(case(), refuses)] == ["refused"]
    assert [p.outcome for p in prove_case(case(), cannot)] == ["unable"]


def test_a_builder_that_fails_or_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a builder raises is told apart: `Unbuildable` is its right, all else its fault."""
    truths = right(case())
    for raised, outcome in ((Unbuildable("not that"), "outside"), (KeyError("x"), "failed")):

        def graph(model: Model, run: Run, placement: Placement, raised: Exception = raised) -> None:
            raise raised

        monkeypatch.setattr("tools.graphs.prove.graph_of", graph)
        assert {p.outcome for p in prove_case(case(), lambda c: truths)} == {outcome}
        monkeypatch.undo()


def test_the_fused_nodes_are_compared() -> None:
    c = case()
    run = reservations(c)[0]
    made = graph_of(c.model, run, c.placement)
    at = {i: k for k, i in enumerate(made.graph.nodes)}
    fused = frozenset((at[i], layer) for i, layer, _ in made.fused)
    assert fused
    assert prove_case(c, lambda c: [Truth(run, made.graph, fused)])[0].outcome == "equal"
    found = prove_case(c, lambda c: [Truth(run, made.graph, fused - {min(fused)})])[0]
    assert found.outcome == "different"
    assert "fused" in found.what


def wrong(c: Case) -> list[Truth]:
    """An oracle whose 30th node has other extents; it says where it made it."""
    found = []
    for truth in right(c):
        i = truth.graph.nodes[30]
        ne = (9, *truth.graph.tensors[i].ne[1:])
        found.append(
            truth._replace(graph=changed(truth.graph, i, ne=ne), lines={i: "engine.cpp:7"} if c.lines else {})
        )
    return found


def test_a_report_shows_the_first_difference_and_counts() -> None:
    """The first difference comes with both listings and the lines that made the node; the others are counted."""
    out = io.StringIO()
    report = Report(out)
    prove([HEADER], wrong, report, ONE)
    assert not report.summarize()
    text = out.getvalue()
    assert "one card: node 30: extents" in text
    assert "made at engine.cpp:7" in text
    assert ".py:" in text
    assert text.count("  >    30 ") == 2
    assert "2 different" in text
    assert text.count("ours, made at") == 1


def test_a_report_of_equals_is_good() -> None:
    out = io.StringIO()
    report = Report(out)
    prove([HEADER], right, report, ONE, "qwen2")
    assert report.summarize()
    assert "2 equal" in out.getvalue()
    prove([HEADER], wrong, report, ONE, "qwen3")
    assert report.summarize()


def test_lines_are_those_of_the_builders() -> None:
    c = case()
    with recorded_lines() as lines:
        graph = graph_of(c.model, reservations(c)[1], c.placement).graph
    made = [lines[id(graph.tensors[i])] for i in graph.nodes]
    assert all(".py:" in x for x in made)
    before = len(lines)
    graph_of(c.model, reservations(c)[1], c.placement)
    assert len(lines) == before


def test_listing_names_nodes_weights_and_inputs() -> None:
    lines = listing(GRAPH, 3, before=3)
    assert [int(x.split()[0]) for x in lines] == [0, 1, 2, 3, 4, 5]
    assert "weight token_embd.weight" in lines[0]
    assert "input " in lines[0]
    assert "(#0 GET_ROWS)" in lines[1]
    assert "pinned 0" in lines[1]


def test_all_settings_make_cases() -> None:
    """Every set of settings of a proof resolves and places; names are said once in the table."""
    found = list(cases(HEADER, MODEL))
    assert [c.name for c in found] == list(SETTINGS)
    for c in found:
        assert len(reservations(c)) == 2
        assert c.placement.n_devices == len(c.gpus_mib)
    halves = next(c for c in found if c.name == "half of the layers")
    assert 0 < halves.placement.count(0) < MODEL.n_layer


def test_the_last_reservation_of_one_sequence() -> None:
    four = {"n_seq_max": 4, "n_outputs_max": 0}

    model = dataclasses.replace(MODEL, architecture="kimi-linear")
    runs = reservations(next(cases(HEADER, model, {"four": four})))
    assert [(r.n_tokens, r.n_seqs) for r in runs] == [(512, 4), (4, 4), (512, 1)]


def test_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`prove` ends with 0 where all is equal and 1 where something differs, whatever the oracle is."""
    for oracle, status in ((right, 0), (wrong, 1)):
        monkeypatch.setattr("tools.graphs.live.truths", oracle)
        monkeypatch.setattr(sys, "argv", ["prove", "prove", str(HEADER), "--only", "one card"])
        assert main() == status
        assert "qwen2" in capsys.readouterr().out
    monkeypatch.setattr(
        sys,
        "argv",
        ["prove", "campaign", "--arch", "qwen3", "--no-make", "--runs", "1", "--headers", str(HEADER)],
    )
    assert main() == 0
    assert "1 refused" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["prove", "prove", "nowhere.gguf"])
    with pytest.raises(SystemExit, match=r"nowhere\.gguf"):
        main()


def small_draft() -> Draft:
    """Two blocks, one with fused projections and experts in one tensor; a list by layer."""
    f32 = BY_NAME["f32"]
    keys = {
        "general.architecture": Key("str", "toy"),
        "toy.block_count": Key("u32", 2),
        "toy.embedding_length": Key("u32", 64),
        "toy.attention.head_count": Key("u32", 4),
        "toy.attention.head_count_kv": Key("u32", [2, 1]),
        "toy.attention.key_length": Key("u32", 16),
    }
    shapes = {
        "token_embd.weight": (64, 100),
        "blk.0.attn_qkv.weight": (64, 128),
        "blk.0.attn_qkv.bias": (128,),
        "blk.0.ffn_gate_up_exps.weight": (64, 96, 8),
        "blk.0.ffn_gate_up_exps.scale": (8,),
        "blk.1.attn_qkv.weight": (64, 96),
    }
    return Draft(keys, {name: Shape(f32, ne) for name, ne in shapes.items()})


def edit_called(draft: Draft, words: str) -> Edit:
    """An edit that is drawn sooner or later."""
    for seed in range(3000):
        for edit in draw_edits(random.Random(seed), draft):
            if edit.words == words:
                return edit
    raise AssertionError(f"never drawn: {words}")


def test_a_draft_is_written_as_it_was_read(tmp_path: pathlib.Path) -> None:
    """Reading, writing and reading a header changes nothing that a graph depends on."""
    path = tmp_path / "again.gguf"
    Draft.read(HEADER).write(path)
    c, again = case(), next(cases(path, read(path), ONE))
    for run_, other in zip(reservations(c), reservations(again), strict=True):
        assert run_ == other
        ours, theirs = graph_of(c.model, run_, c.placement), graph_of(again.model, other, again.placement)
        assert first_difference(ours.graph, theirs.graph) is None
    assert Draft.read(path) == Draft.read(path)


def test_projections_and_experts_apart_and_fused_again() -> None:
    draft = small_draft()
    apart = applied(
        draft, [edit_called(draft, "attn_qkv apart"), edit_called(draft, "ffn_gate_up_exps apart")]
    )
    assert {n: t.ne for n, t in apart.tensors.items()} == {
        "token_embd.weight": (64, 100),
        "blk.0.attn_q.weight": (64, 64), "blk.0.attn_k.weight": (64, 32), "blk.0.attn_v.weight": (64, 32),
        "blk.0.attn_q.bias": (64,), "blk.0.attn_k.bias": (32,), "blk.0.attn_v.bias": (32,),
        "blk.0.ffn_gate_exps.weight": (64, 48, 8), "blk.0.ffn_up_exps.weight": (64, 48, 8),
        "blk.0.ffn_gate_exps.scale": (8,), "blk.0.ffn_up_exps.scale": (8,),
        "blk.1.attn_q.weight": (64, 64), "blk.1.attn_k.weight": (64, 16), "blk.1.attn_v.weight": (64, 16),
    }  # fmt: skip
    fused = applied(
        apart, [edit_called(apart, "attn_qkv fused"), edit_called(apart, "ffn_gate_up_exps fused")]
    )
    assert fused.tensors == draft.tensors


def test_blocks_in_another_order() -> None:
    draft = small_draft()
    draft.reorder([1, 0, 1])
    assert draft.n_layer == 3
    assert draft.get("attention.head_count_kv") == [1, 2, 1]
    assert [n for n in draft.tensors if n.endswith("qkv.weight")] == [
        f"blk.{i}.attn_qkv.weight" for i in range(3)
    ]
    assert draft.tensors["blk.2.attn_qkv.weight"].ne == (64, 96)
    assert "blk.1.ffn_gate_up_exps.weight" in draft.tensors


@pytest.mark.parametrize(
    ("value", "kind"),
    [(0, "u32"), (2**32 - 1, "u32"), (2**32, "u64"), (-1, "i32"), (-(2**31), "i32"), (-(2**31) - 1, "i64")],
)
def test_a_number_has_a_type_that_holds_it(value: int, kind: str) -> None:
    draft = small_draft()
    draft.put("embedding_length", value)
    assert draft.keys["toy.embedding_length"].type == kind


def test_tensors_away_and_back() -> None:
    draft = small_draft()
    draft.drop("blk.N.attn_qkv.weight", 1)
    assert [n for n in draft.tensors if "qkv.weight" in n] == ["blk.0.attn_qkv.weight"]
    draft.drop("blk.N.attn_qkv.weight")
    assert not [n for n in draft.tensors if "qkv.weight" in n]
    scaled = applied(small_draft(), [edit_called(small_draft(), "with scale beside weights with '.'")])
    assert scaled.tensors["blk.0.attn_qkv.scale"].ne == (1,)
    assert scaled.tensors["blk.0.ffn_gate_up_exps.scale"].ne == (8,)
    assert "blk.0.attn_qkv.input_scale" not in scaled.tensors
    edit = edit_called(small_draft(), "with scale and input_scale beside weights with 'exps'")
    assert applied(small_draft(), [edit]).tensors["blk.0.ffn_gate_up_exps.input_scale"].ne == (8,)


@given(st.integers(0, 10**9))
@settings(max_examples=60, deadline=None)
def test_edits_are_drawn_alike_and_leave_their_draft_alone(seed: int) -> None:
    """The same seed draws the same edits; they apply to any draft, and to a copy of it."""
    draft = small_draft()
    edits = draw_edits(random.Random(seed), draft)
    assert [e.words for e in edits] == [e.words for e in draw_edits(random.Random(seed), draft)]
    assert applied(draft, edits).keys["general.architecture"].value == "toy"
    assert draft == small_draft()
    assert draw_overrides(random.Random(seed)).keys() <= SWITCHES.keys()


def around(
    oracle: Oracle, out: io.StringIO, keep: pathlib.Path | None = None, runs: range = range(3)
) -> Report:
    """A short campaign around the example, without the engine."""
    report = Report(out)
    run(Campaign("qwen2", "3", oracle, [HEADER], False, keep, ONE), report, runs)
    return report


def test_a_campaign_that_agrees() -> None:
    report = around(right, io.StringIO())
    assert report.summarize()
    assert report.counts["qwen2"]["equal"] >= 2


def test_a_campaign_that_differs_keeps_the_header(tmp_path: pathlib.Path) -> None:
    """What differs is reported with as few edits as it takes: none, where the header itself differs."""
    out = io.StringIO()
    report = around(wrong, out, tmp_path, range(1))
    assert not report.summarize()
    text = out.getvalue()
    assert "qwen2.5-14b" in text
    assert "edit: " not in text
    kept = sorted(tmp_path.glob("*.gguf"))
    assert kept
    assert read(kept[0]).n_layer == MODEL.n_layer


def test_a_header_that_ends_the_process_is_counted() -> None:
    report = around(lambda c: os._exit(3), io.StringIO())
    assert report.summarize()
    assert report.counts["qwen2"]["died"] + report.counts["qwen2"]["refused"] == 3
    assert report.counts["qwen2"]["died"]


live = pytest.mark.skipif(
    "not __import__('tools.engine.binding').engine.binding.is_available()",
    reason="the engine is not installed here (docs/engine.md)",
)


@live
@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gemma3", "mamba2"])
def test_builders_are_the_engines(architecture: str, tmp_path: pathlib.Path) -> None:
    """The graphs of a small model of random sizes are the engine's, under all settings."""
    from tools.engine.models import make_model
    from tools.graphs.live import truths

    path = tmp_path / "model.gguf"
    make_model(architecture, path)
    out = io.StringIO()
    report = Report(out)
    prove([path], truths, report)
    assert report.summarize(), out.getvalue()
    assert report.counts[architecture]["equal"] == 2 * len(SETTINGS)


@live
def test_a_campaign_against_the_engine(tmp_path: pathlib.Path) -> None:
    from tools.graphs.live import truths

    out = io.StringIO()
    report = Report(out)
    run(Campaign("mamba2", "1", truths), report, range(4))
    assert report.summarize(), out.getvalue()
    assert report.counts["mamba2"]["equal"]


# -- keys that are read in vain

SOURCES = {
    "llama-arch.cpp": """
    { LLM_ARCH_QWEN2,  "qwen2" },
    { LLM_ARCH_TOY,    "toy"   },
    { LLM_KV_BLOCK_COUNT,          "%s.block_count"         },
    { LLM_KV_ATTENTION_CLAMP_KQV,  "%s.attention.clamp_kqv" },
    { LLM_KV_LOGIT_SCALE,          "%s.logit_scale"         },
    { LLM_KV_GENERAL_NAME,         "general.name"           },
""",
    "llama-hparams.cpp": "",
    "llama-model.cpp": """
static llama_model * make(llm_arch arch) {
        case LLM_ARCH_QWEN2:
            return new llama_model_qwen2(params);
        case LLM_ARCH_TOY:
            return new llama_model_toy(params);
}

void llama_model_base::load_hparams(llama_model_loader & ml) {
    ml.get_key(LLM_KV_BLOCK_COUNT, n);
}
""",
    "models/models.h": "struct llama_model_toy : public llama_model_qwen2 {\n};\n",
    "models/qwen2.cpp": """
static void more(llama_model_loader & ml) {
    ml.get_key(LLM_KV_LOGIT_SCALE, x);
}

void llama_model_qwen2::load_arch_hparams(llama_model_loader & ml) {
    more(ml);
}

void llama_model_qwen2::other(llama_model_loader & ml) {
    ml.get_key(LLM_KV_ATTENTION_CLAMP_KQV, x);
}
""",
}


def test_keys_that_an_architecture_loads(tmp_path: pathlib.Path) -> None:
    """What all load, what its own function loads, and those that this one calls; of a base where it has none."""
    for name, text in SOURCES.items():
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert keys_of_engine(tmp_path) == {name: {"block_count", "logit_scale"} for name in ("qwen2", "toy")}


def test_a_false_switch_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A builder that asks for a key is told, whether the header has the key or not, but none that looks at all."""
    before = keys_read(MODEL, HEADER)
    assert "attention.clamp_kqv" not in before
    build = qwen2.build

    def nosy(g: GraphContext) -> None:
        g.hp("attention.clamp_kqv")
        build(g)

    found = builder_for("qwen2")
    assert found is not None
    monkeypatch.setattr("vramfit._graphs.builder_for", lambda name: found._replace(build=nosy))
    assert keys_read(MODEL, HEADER) - before == {"attention.clamp_kqv"}
