"""What another build of the engine does otherwise: definitions, citations, and what the report says of small trees."""

from __future__ import annotations

import copy
import gzip
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(ROOT))  # the tools are no part of the distribution

from tools.engine.errors import EngineError
from tools.graphs.cases import SETTINGS, Case, cases, read, reservations
from tools.graphs.ours import graph_of
from tools.graphs.prove import Refused, Truth
from tools.nextbuild.__main__ import main
from tools.nextbuild.architectures import Tables, read_tables
from tools.nextbuild.citations import Place, Text, cited
from tools.nextbuild.cpp import definitions
from tools.nextbuild.make import DATA, citations, make_record
from tools.nextbuild.proofs import FOLDER, Bytes, Found, prove_headers, said
from tools.nextbuild.rules import changes, difference
from tools.nextbuild.trees import Folder, Record, load, save
from vramfit._llama.eras import PINNED

CPP = """\
#pragma once
#define LIMIT 16 // of devices
static const std::map<int, const char *> NAMES = {
    { LLM_ARCH_QWEN, "qwen" },
};
typedef void (* handler_t)(int a);
typedef struct { int a; } pair_t;
enum class kind : int { ONE, TWO };
struct declared;
bool answer(int a);
namespace inner {
template <typename T, int N = (1)>
static bool answer(T a, const char * text) {
    const char * brace = "}"; /* } */ char c = '{';
#ifdef FAST
    if (a) {
#else
    if (!a) {
#endif
        return other(a);
    }
    return [&](int x) { return x; }(1'000);
}
} // namespace inner
struct model : public base {
    model(int a);
    struct graph { int n; };
};
model::model(int a) : base(a), list{a, 2}, made(new base([](int b) { return b; })) {
    done();
}
model::~model() = default;
bool model::operator==(const model & other) const { return true; }
template <bool swa>
model::graph<swa>::graph(int n) : n(n) {
}
const char * const REGEX = R"x(a{)x";
"""


def test_definitions_have_names_and_lines() -> None:
    """Of functions, members, types, tables and macros; declarations, braces in texts and other branches are passed by."""
    found = {d.name: (d.start, d.end) for d in definitions(CPP)}
    assert found == {
        "LIMIT": (2, 2), "NAMES": (3, 5), "handler_t": (6, 6), "pair_t": (7, 7), "kind": (8, 8), "answer": (12, 23),
        "model": (25, 28), "model::model": (29, 31), "model::operator==": (33, 33), "model::graph::graph": (34, 36),
        "REGEX": (37, 37),
    }  # fmt: skip


SPACES = st.sampled_from((" ", "  ", "\n", "\t", " /* said */ ", " // said\n"))


@given(st.lists(SPACES, min_size=40, max_size=40))
def test_comments_and_layout_change_nothing(gaps: list[str]) -> None:
    """A definition has the same words whatever stands between its tokens."""
    words = list("f(a,b){if(a>1){return(g);}x;}")
    text = "".join(w + gap for w, gap in zip(words, gaps, strict=False))
    (one,), (other,) = definitions(text), definitions("".join(words))
    assert one.name == "f"
    said, bare = ("".join(t for _, t in d.lines).replace(" ", "") for d in (one, other))
    assert said == bare


ARCH = """\
static const std::map<llm_arch, const char *> LLM_ARCH_NAMES = {
    { LLM_ARCH_OLD, "old" },
    { LLM_ARCH_KEPT, "kept" },
};
static const std::map<llm_kv, const char *> LLM_KV_NAMES = {
    { LLM_KV_BLOCK_COUNT, "%s.block_count" },
};
"""
MODEL = """\
static llama_model * llama_model_mapping(llm_arch arch) {
    switch (arch) {
        case LLM_ARCH_OLD:
            return new llama_model_old(params);
        case LLM_ARCH_KEPT:
            return new llama_model_kept(params);
    }
}
void llama_model::place(int n) {
    int first = 1;
    int second = 2;
}
void llama_model::lonely(int n) {
    count(n);
}
"""
KEPT = """\
void llama_model_kept::load(int n) {
    tensors(n);
    more(n);
    norm(n);
}
"""
LIBRARY = '''\
"""Where layers go. Source: src/llama-model.cpp; line numbers below are of that file."""


def place() -> None:
    """Each layer in turn (9-12)."""


class Sizes:
    def names(self) -> None:
        """As `llama_model_kept` does (models/kept.cpp), and `LLM_KV_NAMES` of llama-arch.cpp."""


# lost (llama-model.cpp:900), and nothing of llama.cpp
'''


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "old"
    (root / "src/models").mkdir(parents=True)
    (root / "common").mkdir()
    (root / "conversion").mkdir()
    (root / "src/llama-arch.cpp").write_text(ARCH)
    (root / "src/llama-model.cpp").write_text(MODEL)
    (root / "src/models/kept.cpp").write_text(KEPT)
    (root / "src/models/old.cpp").write_text(KEPT.replace("kept", "old"))
    (root / "common/arg.cpp").write_text('add_opt(common_arg({"-c", "--ctx-size"}, "N", size));\n')
    (root / "conversion/old.py").write_text(
        '@ModelBase.register("OldForCausalLM")\nclass Old:\n    model_arch = gguf.MODEL_ARCH.OLD\n    n = 1\n'
    )
    return root


@pytest.fixture
def newer(tree: Path, tmp_path: Path) -> Path:
    """A later tree: a rule changed, one architecture new, one gone, one changed, other flags and converter."""
    root = tmp_path / "new"
    shutil.copytree(tree, root)
    arch = ARCH.replace('{ LLM_ARCH_OLD, "old" }', '{ LLM_ARCH_FRESH, "fresh" }')
    (root / "src/llama-arch.cpp").write_text(
        arch.replace('"%s.block_count" },', '"%s.block_count" },\n{ LLM_KV_X, "%s.x" },')
    )
    model = MODEL.replace("LLM_ARCH_OLD", "LLM_ARCH_FRESH").replace("llama_model_old", "llama_model_fresh")
    model = model.replace("int second = 2;", "int third = 3; // said").replace("count(n)", "count(n + 1)")
    (root / "src/llama-model.cpp").write_text(model)
    (root / "src/models/fresh.cpp").write_text(KEPT.replace("kept", "fresh"))
    (root / "src/models/old.cpp").unlink()
    (root / "src/models/kept.cpp").write_text(KEPT.replace("more(n);", "less(n);"))
    (root / "common/arg.cpp").write_text('add_opt(common_arg({"-c", "--moe-cache-mib"}, "N", size));\n')
    (root / "conversion/old.py").write_text(
        '@ModelBase.register("OldForCausalLM", "FreshForCausalLM")\nclass Old:\n    model_arch = gguf.MODEL_ARCH.OLD\n'
    )
    return root


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "vramfit"
    folder.mkdir()
    (folder / "placement.py").write_text(LIBRARY)
    return folder


def test_citations_are_resolved(tree: Path, library: Path) -> None:
    """By the lines of the module's own file, by name, and a small file as a whole; what means nothing is told."""
    _, found = make_record(tree, "here", library)
    assert (
        Place("vramfit/placement.py", "place") in found.places[("src/llama-model.cpp", "llama_model::place")]
    )
    assert ("src/llama-model.cpp", "llama_model::lonely") not in found.places
    sizes = Place("vramfit/placement.py", "Sizes.names")
    assert found.places[("src/models/kept.cpp", "llama_model_kept::load")] == [sizes]
    assert found.places[("src/llama-arch.cpp", "LLM_KV_NAMES")] == [sizes]
    assert found.lost == [(Place("vramfit/placement.py", ""), "llama-model.cpp:900")]


def test_a_record_says_what_the_tree_says(tree: Path, library: Path, tmp_path: Path) -> None:
    """Written and read again it is the same, byte for byte when it is written twice, and holds no line of the source."""
    record, found = make_record(tree, "here", library)
    save(record, tmp_path / "a.gz")
    save(load(tmp_path / "a.gz"), tmp_path / "b.gz")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert "second" not in gzip.decompress((tmp_path / "a.gz").read_bytes()).decode()
    again = load(tmp_path / "a.gz")
    assert Tables.of(again.tables) == read_tables(Folder(tree))
    assert not list(changes(found.places, again, Folder(tree)))
    (tmp_path / "a.gz").write_bytes(b"no record")
    with pytest.raises(EngineError, match="is no record of a tree"):
        load(tmp_path / "a.gz")


@pytest.mark.parametrize("with_files", [True, False])
def test_the_report_names_what_changed(
    tree: Path,
    newer: Path,
    library: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    with_files: bool,
) -> None:
    """From the record alone, too: rules with who cites them, architectures with their first difference, tables."""
    record, found = make_record(tree, "here", library)
    was: Folder | Record = Folder(tree) if with_files else record
    (change,) = (c for c in changes(found.places, was, Folder(newer)) if c.name == "llama_model::place")
    assert change.kind == "placement and memory"
    assert change.before is not None
    assert change.after is not None
    gone = "- 11: int second = 2;" if with_files else "- 1 line"
    assert difference(change.before, change.after, 9) == [gone, "+ 11: int third = 3; // said"]
    assert difference(change.before, change.after, 1) == [gone, "  … 1 lines more"]
    save(record, tmp_path / "data.gz")
    old = ["--old", str(tree)] if with_files else []
    assert (
        main(["show", str(newer), *old, "--data", str(tmp_path / "data.gz"), "--library", str(library)]) == 0
    )
    shown = capsys.readouterr().out
    for words in (
        "Architectures: 1 new, 1 gone, 1 of 1 changed.",
        "+ fresh: src/models/fresh.cpp, 80% of its lines are in old",
        "- old\n",
        "  kept: src/models/kept.cpp:1 llama_model_kept::load",
        "+ 3: less(n);",
        "header keys: 1 new (%s.x); 0 gone",
        "flags: 1 new (--moe-cache-mib); 1 gone (--ctx-size)",
        "models of the converter: 1 new (FreshForCausalLM); 0 gone",
        "models that the converter reads otherwise: 1 (OldForCausalLM)",
        "src/llama-model.cpp: llama_model::lonely, llama_model_mapping",
    ):
        assert words in shown


def test_what_moved_or_is_gone_is_told(tree: Path, library: Path) -> None:
    record, found = make_record(tree, "here", library)
    model = tree / "src/llama-model.cpp"
    model.write_text(MODEL.replace("llama_model::place", "llama_model::set"))
    (change,) = changes(found.places, record, Folder(tree))
    assert change.after is None
    (back,) = changes(found.places, Folder(tree), record)
    assert (back.name, back.before) == ("llama_model::place", None)
    (tree / "src/llama-place.cpp").write_text("void llama_model::place(int n) {\n    place_all(n);\n}\n")
    (change,) = changes(found.places, record, Folder(tree))
    assert change.moved == "src/llama-place.cpp"


def test_a_folder_that_is_no_tree_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"has no src/llama-arch\.cpp"):
        main(["show", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"has no libllama\.so"):
        main(["prove", str(tmp_path), "--libraries", str(tmp_path)])


def test_everything_that_the_library_cites_is_recorded() -> None:
    """Else `record` has to run again: of the build that the library follows, and with rules of every kind."""
    record = load(DATA)
    found = citations(record)
    assert record.title
    assert PINNED.title.startswith(record.title)
    assert not found.lost
    names = {name for _, name in found.places}
    assert {
        "ggml_backend_sched_split_graph", "ggml_dyn_tallocr_alloc", "ggml_backend_cuda_device_supports_op", "ggml_mul_mat",
        "llm_graph_context::build_moe_ffn", "llama_context::sched_reserve", "llama_model_qwen3::graph::graph",
        "common_params_parser_init", "llama_model_loader::create_tensor", "ggml_vk_graph_optimize",
    } <= names  # fmt: skip


def test_a_citation_of_another_module_is_not_taken_over() -> None:
    """Bare numbers count behind a file with lines in the same text, or where the module says whose they are."""
    record = load(DATA)

    def of(*said: str) -> set[str]:
        return {
            n for _, n in cited([Text(Place("x.py", ""), i, t) for i, t in enumerate(said)], record).places
        }

    assert of("Half of them (921).", "ggml-alloc.c stands for much") == set()
    assert of("See ggml-backend.cpp:925, and the second pass (1117).") == {
        "ggml_backend_sched_backend_id_from_cur", "ggml_backend_sched_split_graph",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "mixes"), [("qwen3", True), ("deepseek4", False), ("cogvlm", False)]
)
def test_batches_of_later_builds_mix_tokens_and_embeddings(
    tmp_path: Path, architecture: str, mixes: bool
) -> None:
    """Three inputs, a second look-up right behind the first, and a store into a copy; not where a build does not mix."""
    path = tmp_path / "x.gguf"
    path.write_bytes(gzip.decompress((FOLDER / f"{architecture}.gguf.gz").read_bytes()))
    case = next(cases(path, read(path), {"one card": SETTINGS["one card"]}))
    today, later = (
        graph_of(c.model, reservations(c)[0], c.placement).graph
        for c in (case, replace(case, build="b11549"))
    )
    more = Counter(later.tensors[i].op for i in later.nodes) - Counter(
        today.tensors[i].op for i in today.nodes
    )
    assert more == (Counter(GET_ROWS=1, DUP=1, SET_ROWS=1) if mixes else Counter())
    names = {t.name for t in later.tensors} - {t.name for t in today.tensors}
    assert {"inp_mixed_tokens", "inp_mixed_slots", "inp_mixed_embd"} <= names if mixes else not names
    assert [later.tensors[i].op for i in later.nodes[:2]] == ["GET_ROWS", "GET_ROWS"] or not mixes


def ours(case: Case) -> Iterator[Truth]:
    """An engine that builds what the library builds."""
    for run in reservations(case):
        yield Truth(run, graph_of(case.model, run, case.placement).graph)


def other(case: Case) -> Iterator[Truth]:
    """An engine with one node more."""
    for truth in ours(case):
        graph = truth.graph
        last = copy.copy(graph.tensors[graph.nodes[-1]])
        last.op = "DUP"
        graph.tensors.append(last)
        graph.nodes.append(len(graph.tensors) - 1)
        yield truth


def died(case: Case) -> Iterator[Truth]:
    os._exit(3)
    yield from ours(case)


def refused(case: Case) -> Iterator[Truth]:
    raise Refused("not today")
    yield from ours(case)


@pytest.fixture
def headers(tmp_path: Path) -> Path:
    shutil.copy(FOLDER / "qwen3.gguf.gz", tmp_path)
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    return tmp_path


def test_headers_are_proved_each_in_a_process(headers: Path) -> None:
    """Equal, different with what is more, refused, or the end of the process: one header never ends the others."""
    broken, equal = prove_headers(headers, ours, only="one card", measured=False)
    assert broken.graphs == Counter(failed=1)
    assert equal == Found("qwen3", "qwen3.gguf", Counter(equal=2))
    (_, more) = prove_headers(headers, other, only="one card", measured=False)
    assert more.graphs == Counter(different=2)
    assert more.nodes == ("+ DUP",)
    assert more.first.startswith("one card: ")
    (_, none) = prove_headers(headers, refused, only="one card", measured=False)
    assert none.graphs == Counter(refused=2) or none.graphs == Counter(refused=1)
    (_, gone) = prove_headers(headers, died, only="one card", measured=False)
    assert (gone.graphs, gone.first) == (Counter(died=1), "the process ended with 3")
    assert not list(prove_headers(headers, ours, architecture="llama"))[1:]


def test_the_proof_is_told_by_what_differs() -> None:
    """Architectures with the same differences together, the lowest figure first, each first difference once."""
    low = Bytes(False, 1, 0.9, "one card: ours 9, the build's 10")
    found = [
        Found(
            "a",
            "a.gguf",
            Counter(different=2),
            "one card: node 1",
            ("+ DUP",),
            (low, Bytes(True, 0, 1.0, "")),
        ),
        Found("b", "b.gguf", Counter(different=1), "one card: node 2", ("+ DUP",)),
        Found("b", "b.experts.gguf", Counter(different=1), "one card: node 3", ("+ DUP",)),
        Found("c", "c.gguf", Counter(equal=3)),
    ]
    lines = list(said(found))
    assert lines[0] == "Graphs: 4 different, 3 equal."
    assert "\n2 architectures: + DUP" in lines
    assert "  a, b" in lines
    assert "Figures: 1 of 2 contexts exact, 1 with a device that needs more than estimated." in lines
    assert "  0.9000 one card: ours 9, the build's 10" in lines
    assert [x for x in lines if "node 3" in x] == []
