"""The facts about published models, and the headers that are made of them."""

from __future__ import annotations

import json
import os
import pathlib
import re
import sys
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the tools are no part of the distribution

from tools.engine.binding import is_available  # noqa: E402
from tools.published import facts as module  # noqa: E402
from tools.published.facts import CERTAINTY, FOLDER, Fact, facts, keep, pack, save, unpack  # noqa: E402
from tools.published.gguf import Tensor, header  # noqa: E402
from vramfit._gguf import parse  # noqa: E402
from vramfit._gguf.nouns import Array  # noqa: E402
from vramfit._llama.arch.table import TABLE  # noqa: E402
from vramfit._quant import FILE_TYPES  # noqa: E402

ALL = facts()
_OFTEN_RUN = """
    llama mistral3 qwen2 qwen2vl qwen3 qwen3moe qwen3vl qwen35 qwen35moe gemma2 gemma3 gemma4 phi3
    deepseek2 glm4 glm4moe glm-dsa granite granitehybrid nemotron_h_moe lfm2 jamba exaone falcon-h1 olmo2
    command-r starcoder2 mamba2 rwkv6 rwkv7 bert t5
"""
SOURCE = os.environ.get("LLAMA_CPP_SOURCE")

needs_engine = pytest.mark.skipif(not is_available(), reason="the engine is not installed (docs/engine.md)")


def of(model: str) -> Fact:
    return next(fact for fact in ALL if fact.model == model)


# -- the facts ---------------------------------------------------------------


def test_every_loadable_architecture_has_a_fact() -> None:
    assert {fact.architecture for fact in ALL} == set(TABLE)


def test_those_that_people_run_have_several() -> None:
    count = Counter(fact.architecture for fact in ALL)
    assert len(ALL) >= 300
    assert {name: count[name] for name in _OFTEN_RUN.split() if count[name] < 3} == {}


def test_files_stay_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 400_000


def test_file_names_are_unique_in_any_case_and_safe() -> None:
    names = [fact.file_name.lower() for fact in ALL]
    assert len(set(names)) == len(names)
    assert [name for name in names if not re.fullmatch(r"[\w.+-]+--[\w.+-]+\.gguf", name)] == []


def test_a_fact_says_whose_and_how_sure_it_is() -> None:
    assert [
        f.model for f in ALL if f.by not in CERTAINTY or not re.fullmatch(r"[^/\s]+/[^/\s]+", f.source)
    ] == []
    assert [f.model for f in ALL if f.type not in FILE_TYPES] == []


def test_every_model_has_its_extents() -> None:
    for fact in ALL:
        for key in ("block_count", "embedding_length", "context_length", "vocab_size"):
            assert isinstance(fact.keys.get(key), int), (fact.model, key)


def test_arrays_have_one_type_and_as_many_elements_as_there_are_layers() -> None:
    layers = re.compile(
        r"head_count|feed_forward_length|sliding_window_pattern|swiglu_clamp|recurrent_layers"
    )
    for fact in ALL:
        for key, value in fact.keys.items():
            if isinstance(value, list):
                assert len({type(v) for v in value}) == 1, (fact.model, key)
                if layers.search(key):
                    nextn = fact.keys.get("nextn_predict_layers", 0)
                    assert len(value) in (fact.keys["block_count"], fact.keys["block_count"] - nextn), (
                        fact.model,
                        key,
                    )


def test_patterns_compile() -> None:
    for fact in ALL:
        for pattern in (*fact.lacks, *fact.has):
            re.compile(pattern)


@pytest.mark.skipif(not SOURCE, reason="LLAMA_CPP_SOURCE names no tree")
def test_keys_are_those_that_the_engine_knows() -> None:
    text = (pathlib.Path(str(SOURCE)) / "src" / "llama-arch.cpp").read_text()
    known = set(re.findall(r'\{ *LLM_KV_\w+, *"(?:%s\.)?([^"]+)"', text))
    unread = {
        "altup.active_idx", "altup.num_inputs", "diffusion.shift_logits",  # written by the converter all the same
    }  # fmt: skip
    odd = {key for fact in ALL for key in fact.keys} - known - unread
    assert odd == set()


@given(
    st.lists(st.booleans(), max_size=40)
    | st.lists(st.integers(0, 2), max_size=40)
    | st.lists(st.sampled_from([0.0, 1.0]), max_size=40)
)
def test_a_list_comes_back_with_its_types(values: list[Any]) -> None:
    """unpack(pack(x)) is x, to the type of each element."""
    again = unpack(json.loads(json.dumps(pack(values))))
    assert [(type(v), v) for v in again] == [(type(v), v) for v in values]


def test_periods_and_runs_are_packed() -> None:
    assert pack([True, True, False] * 16) == {"cycle": [True, True, False], "length": 48}
    assert pack([0] * 3 + [1] * 45) == {"runs": [[3, 0], [45, 1]]}


def test_facts_come_back_as_they_were_saved(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    made = [
        Fact("llama", "a", "x/a", "config", {"n": 1, "f": 1.0, "s": True}, ("^output",), ("bias",)),
        Fact(
            "llama", "b", "x/b", "recalled", {"n": 1, "f": 1, "s": 1}, ("^output",), (), {"d2t": [3]}, "Q8_0"
        ),
    ]
    save("llama", made)
    text = json.loads((tmp_path / "llama.json").read_text())
    assert text["keys"] == {"n": 1}  # what is of another type is not shared
    assert text["lacks"] == ["^output"]
    again = module.facts()
    assert [repr(fact) for fact in again] == [repr(fact) for fact in made]


def test_a_converted_configuration_becomes_a_fact(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    line = {
        "source": "x/New-1B",
        "architecture": "llama",
        "keys": {"block_count": 2},
        "tied": True,
        "rope": "llama3",
    }
    keep([line], "config")
    keep(
        [line | {"source": "x/Old-1B", "tied": False, "rope": ""}, {"source": "x/Bad", "failed": "no"}],
        "recalled",
    )
    new, old = module.facts()
    assert (new.model, new.by, new.lacks, new.has) == (
        "New-1B",
        "config",
        ("^output\\.weight",),
        ("rope_freqs",),
    )
    assert (old.model, old.by, old.lacks, old.has) == ("Old-1B", "recalled", (), ())
    keep([line | {"keys": {"block_count": 3}}], "config")  # again: in its place
    assert [(fact.model, fact.keys) for fact in module.facts()] == [
        ("New-1B", {"block_count": 3}),
        ("Old-1B", {"block_count": 2}),
    ]


# -- headers -----------------------------------------------------------------


def test_a_header_reads_back_with_the_converter_s_types() -> None:
    keys: dict[str, Any] = {
        "general.architecture": "llama",
        "a": 3,
        "b": 1.5,
        "c": True,
        "d": [True, False],
        "e": [1, -1],
        "x.ple.head_offsets": [3],
    }
    found = parse(header(keys, [Tensor("x", (256, 3), "q4_K"), Tensor("y", (5,), "f32")]))
    plain = {k: list(v.values()) if isinstance(v, Array) else v for k, v in found.metadata.items()}
    assert plain == keys
    assert [found.types[k] for k in "abc"] == ["u32", "f32", "bool"]
    arrays = [found.metadata[k] for k in ("d", "e", "x.ple.head_offsets")]
    assert [x.type for x in arrays if isinstance(x, Array)] == ["bool", "i32", "u64"]
    assert [(t.name, tuple(t.shape), t.offset) for t in found.tensors] == [
        ("x", (256, 3), 0),
        ("y", (5,), 448),
    ]


@needs_engine
def test_a_written_header_is_what_a_published_file_has(tmp_path: pathlib.Path) -> None:
    from tools.published.tensors import write

    def names(model: str) -> set[str]:
        return {t.name for t in parse(write(of(model), tmp_path).read_bytes()).tensors}

    mixture = names("Qwen3-Coder-Next")
    assert {"blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight"} <= mixture  # apart
    assert not any(name.endswith("scale") for name in mixture)
    assert "output.weight" not in names("SmolLM2-360M-Instruct")  # tied
    fused = names("Phi-3-mini-4k-instruct")
    assert "blk.0.attn_qkv.weight" in fused
    assert "blk.0.attn_q.weight" not in fused
    gemma = names("gemma-4-26B-A4B")
    assert "blk.5.attn_v.weight" not in gemma  # a layer whose values are its keys
    assert {"blk.4.attn_v.weight", "blk.0.ffn_gate_up_exps.weight"} <= gemma
    skipped = names("K-EXAONE-236B-A23B")
    assert "blk.48.nextn.eh_proj.weight" in skipped


@needs_engine
def test_the_engine_chooses_the_types(tmp_path: pathlib.Path) -> None:
    from tools.published.tensors import write

    found = parse(write(of("Llama-3.2-1B-Instruct"), tmp_path).read_bytes())
    kinds = {t.name: t.type.name for t in found.tensors}
    assert kinds["token_embd.weight"] == "q6_K"  # it stands in for the output matrix
    assert kinds["blk.3.attn_q.weight"] == "q4_K"
    assert kinds["rope_freqs.weight"] == "f32"


@needs_engine
def test_what_the_engine_refuses_leaves_no_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tools.engine.load import Refused
    from tools.published import tensors

    def refuse(*_: object) -> dict[str, str]:
        raise Refused("no such type")

    monkeypatch.setattr(tensors, "types", refuse)
    with pytest.raises(Refused):
        tensors.write(of("SmolLM2-360M-Instruct"), tmp_path)
    assert list(tmp_path.iterdir()) == []
