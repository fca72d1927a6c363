"""What callers plainly mean is taken everywhere alike; anything else is an error that names it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import ROOT, examples
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu

import vramfit
from vramfit._base.errors import shown
from vramfit._cli import main
from vramfit._devices import Gpu
from vramfit._engines.choose import plan_for
from vramfit._llama.params import Settings

MODEL = dense()
CARDS = (gpu(64, name="a"), gpu(32, name="b"))
EXAMPLES = Path(__file__).parents[1] / "examples"
QWEN = EXAMPLES / "qwen2.5-14b-instruct-1m-q8_0.gguf"
GEMMA = EXAMPLES / "gemma-3-12b-q4_k_m.gguf"
SMALL: dict[str, Any] = {"margin_bytes": 1 << 20, "max_ctx": 2048}


# Every public function with arguments that are right; the tests below put wrong ones in their places.
LOG = (ROOT / "tests/data/logs/printed/llama-cpp-python-0.3.36-cpu.log").read_text()
RIGHT: dict[str, dict[str, Any]] = {
    "accompany": {"model": MODEL, "draft": MODEL, "draft_n_gpu_layers": 1, "draft_type_k": "f16", "draft_type_v": "f16",
                  "draft_cpu_tensors": (), "draft_devices": (0,), "mmproj": None, "mmproj_auto": True,
                  "mmproj_offload": True, "mmproj_device": None, "image_min_tokens": 0, "image_max_tokens": 0,
                  "lora": (), "control_vector": ()},
    "ask_servers": {"gpus": CARDS, "patience": 0.1},
    "best": {"host": None, "model": MODEL, "gpus": CARDS, "settings": None, "prefer": "speed", "host_bandwidth_gbs": None,
             "planner": None, **SMALL},
    "compare": {"host": None, "model": MODEL, "gpus": CARDS, "settings": None, "file_types": ["Q8_0"], "cache_types": ["f16"],
                "imatrix": False, "host_bandwidth_gbs": None, **SMALL},
    "bits_per_weight": {"model": MODEL},
    "cache_measure": {"type_k": "q8_0", "type_v": "q8_0"},
    "engine_settings": {"engine": "ollama", "given": None},
    "estimate": {"host": None, "model": MODEL, "gpus": CARDS, "settings": None},
    "file_bytes": {"model": MODEL, "header_bytes": 0, "alignment": 32},
    "file_type_measure": {"name": "Q4_K_M", "imatrix": False},
    "gives_up": {"plan": vramfit.plan(MODEL, CARDS, {"n_ctx": 512}, margin_bytes=0), "needs": "1GiB", "learned": None},
    "leaves": {"plan": vramfit.plan(MODEL, CARDS, {"n_ctx": 512}, margin_bytes=0)},
    "needs_imatrix": {"model": MODEL},
    "overheads": {"gpu": CARDS[0]},
    "parse_command": {"text": "llama-server -m x.gguf"},
    "parse_gpus": {"spec": "3090ti,mini/3060", "main": None, "link": "1Gbit/s"},
    "parse_modelfile": {"data": "FROM x", "name": "x"},
    "parse_tensor_types": {"text": "attn_v=q8_0"},
    "plan_for": {"host": None, "model": MODEL, "gpus": CARDS, "settings": None, "engine": "llama-server", "learned": None, **SMALL},
    "recipe": {"model": MODEL},
    "validate_catalogue": {"path": None},
    "plan": {"host": None, "model": MODEL, "gpus": CARDS, "settings": None, "learned": None, **SMALL},
    "read": {"reference": GEMMA, "assume": None, "revision": "", "token": "", "cache": True, "progress": None},
    "read_models": {"source": f"models:\n- {GEMMA}"},
    "requantize": {"model": MODEL, "file_type": "Q8_0", "imatrix": False, "output_tensor_type": None,
                   "token_embedding_type": None, "tensor_types": (), "pure": False, "leave_output_tensor": False,
                   "keep_split": False, "dry_run": True},
    "residents": {"models": [MODEL], "engine": "ollama", "gpus": CARDS, "requests": [0], "most": 0, "keep_alive": None, "apart": 0},
    "shared_for": {"models": [MODEL], "gpus": CARDS, "engine": "lm-studio", "margin_bytes": 0, "host": None, "objective": "share"},
    "server_settings": {"n_ctx": 0},
    "speed": {"plan": vramfit.plan(MODEL, CARDS, {"n_ctx": 512}, margin_bytes=0), "host_bandwidth_gbs": None},
    "sweep": {"host": None, "model": MODEL, "gpus": CARDS, "settings": None, "n_ctx": 512, "n_seq_max": 1, "n_ubatch": 64,
              "type_k": "f16", "type_v": None, "file_types": None, "gpu_sets": None, "margin_bytes": 0,
              "imatrix": False, "replays": 2},
    "trades": {"host": None, "model": MODEL, "gpus": CARDS, "settings": None, "prefer": None, "host_bandwidth_gbs": None,
               "planner": None, "brief": True, **SMALL},
    "which": {"host": None, "model": MODEL, "settings": {"n_ctx": 512}, "max_cards": 1, "margin_bytes": 0, "gpus": CARDS},
    "Host": {"total_bytes": 1 << 30, "free_bytes": None, "features": None},
    "parse_host": {"words": "64GiB:58GiB,avx2"},
    "Gpu": {"name": "x", "total_bytes": 1 << 30, "free_bytes": None, "backend": "cuda", "bandwidth_gbs": None,
            "compute_capability": None, "overhead_bytes": 0, "free_measured": None, "unified": False, "id": None, "host": "", "remote": False,
            "link_gbits": None},
    "Settings": {"n_ctx": 0, "n_batch": 512, "n_ubatch": 64, "n_seq_max": 1, "kv_unified": False, "n_outputs_max": 0,
                 "flash_attn": "on", "type_k": "f16", "type_v": "f16", "offload_kqv": True, "swa_full": False,
                 "op_offload": True, "n_gpu_layers": -1, "split_mode": "layer", "main_gpu": 0, "tensor_split": (),
                 "cpu_tensors": (), "embeddings": False, "defaults": "x"},
    "verify": {"model": MODEL, "log": LOG, "settings": None, "gpus": None, "load": 0, "causes": False},
}  # fmt: skip


class Hostile:
    """An object whose repr raises."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


WRONG = st.one_of(
    st.sampled_from([None, True, 0, -1, 5, 2**70, -(2**70), 10**400, 1.5, -0.0, math.nan, math.inf, "", "nan", "5", "./none",
                     b"", b"GGUF", bytearray(3), object(), Hostile(), int, len, [], (), {}, set(), [None], [[]], [5], {"n_ctx": 1},
                     {"n_ctx": "x"}, {5: 5}, [("a",)], [("(", "q8_0")], [("a", 5)], MODEL, CARDS[0], CARDS, Settings(),
                     np.int64(3), np.float32(1), np.array([1, 2]), np.array(["x"]), range(3), memoryview(b"abcd")[::2], 1j]),
    st.lists(st.integers() | st.text(max_size=3) | st.none(), max_size=3),
    st.dictionaries(st.sampled_from(["n_ctx", "type_k", "tensor_split", "cpu_tensors", "x"]), st.integers() | st.text(max_size=3)),
)  # fmt: skip


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_right_arguments_are_taken(name: str) -> None:
    """The arguments that the property below replaces one by one are right."""
    getattr(vramfit, name)(**RIGHT[name])


def test_every_public_function_is_here() -> None:
    """No public function escapes the property; `detect_gpus` and `detect_host` take nothing."""
    functions = {
        n
        for n in vramfit.__all__
        if callable(getattr(vramfit, n)) and not isinstance(getattr(vramfit, n), type)
    }
    assert functions - {"detect_gpus", "detect_host", "doctor"} <= set(RIGHT)


@examples(60, deadline=10_000)
@given(st.data())
def test_wrong_types_are_our_errors(data: st.DataObject) -> None:
    """Whatever is given for one argument of any public function is taken, or is a VramfitError of one line."""
    name = data.draw(st.sampled_from(sorted(RIGHT)))
    argument = data.draw(st.sampled_from(sorted(RIGHT[name])))
    value = data.draw(WRONG)
    if argument == "planner" and callable(value):
        return
    if argument in ("model", "reference") and isinstance(value, str) and value != "./none":
        return  # a name, which would be looked up
    message = ""
    try:
        getattr(vramfit, name)(**RIGHT[name] | {argument: value})
    except vramfit.VramfitError as e:
        message = str(e)
    assert message.isprintable()
    assert len(message) < 1000


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vramfit.plan(5, CARDS), "model=5: give a Model"),  # type: ignore[call-overload]
        (lambda: vramfit.plan(MODEL, None), "gpus=None: give cards"),  # type: ignore[call-overload]
        (lambda: vramfit.plan(MODEL, CARDS, 7), "settings=7: give Settings"),  # type: ignore[call-overload]
        (lambda: vramfit.plan(MODEL, CARDS, {"n_ctxx": 1}), "did you mean n_ctx"),
        (lambda: vramfit.plan(MODEL, CARDS, margin_bytes=None), "margin_bytes=None"),  # type: ignore[call-overload]
        (lambda: vramfit.plan(MODEL, CARDS, margin_bytes=math.nan), "margin_bytes=nan"),  # type: ignore[call-overload]
        (lambda: vramfit.plan(MODEL, CARDS, margin_bytes="1024"), "with its unit"),
        (lambda: vramfit.plan(MODEL, CARDS, margin_bytes=-1), "margin_bytes=-1"),
        (lambda: vramfit.plan(MODEL, CARDS, margin_bytes=True), "margin_bytes=True"),
        (lambda: vramfit.plan(MODEL, CARDS, max_ctx=True), "max_ctx=True"),
        (lambda: vramfit.plan(MODEL, CARDS, max_ctx=2**31), "from 1 to 2147483647"),
        (lambda: vramfit.plan(MODEL, CARDS, max_ctx=math.inf), "max_ctx=inf"),  # type: ignore[call-overload]
        (lambda: vramfit.requantize(MODEL, 5), "file_type='5'"),
        (lambda: vramfit.requantize(MODEL, None), "file_type=None"),  # type: ignore[arg-type]
        (lambda: vramfit.sweep(MODEL, CARDS, n_ctx=[[1], [2, 3]]), "n_ctx="),  # type: ignore[list-item]
        (lambda: vramfit.engine_settings(7), "engine 7"),  # type: ignore[arg-type]
        (lambda: vramfit.engine_settings("ollama", 7), "given=7"),  # type: ignore[arg-type]
        (lambda: vramfit.best(MODEL, CARDS, prefer=Hostile()), "give one of speed"),  # type: ignore[arg-type]
        (lambda: vramfit.compare(MODEL, CARDS, host_bandwidth_gbs=0), "host_bandwidth_gbs=0"),
        (lambda: Gpu("x", 5, compute_capability="new"), "compute_capability='new'"),
        (lambda: Settings(tensor_split=[1e300]), "1e.300"),  # type: ignore[arg-type]
        (lambda: Settings(cpu_tensors=[b"x"]), "give a string"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_errors_name_argument_value_and_what_is_expected(call: Any, message: str) -> None:
    """The words of an error are what a person needs."""
    with pytest.raises(vramfit.VramfitError, match=message):
        call()


def test_what_is_plainly_meant_is_taken() -> None:
    """References, words of cards, one card, mappings, numbers of other libraries: the same answer as the nouns give."""
    model, cards = vramfit.read(GEMMA), vramfit.parse_gpus("3090ti")
    asked = Settings(n_ctx=4096)
    found = vramfit.plan(model, cards, asked)
    same = (
        vramfit.plan(GEMMA, "3090ti", {"n_ctx": 4096}),
        vramfit.plan(str(GEMMA), ["3090ti"], {"n_ctx": "4k"}),
        vramfit.plan(model, cards[0], {"n_ctx": np.int64(4096)}, margin_bytes="1GiB", max_ctx="8k"),
        plan_for(GEMMA, cards[0], asked, "llama-server", margin_bytes="1GiB"),
    )
    for other in same[:3]:
        assert (other.n_ctx, other.estimate.gpus) == (found.n_ctx, found.estimate.gpus)
    assert same[3].fits
    assert (
        vramfit.estimate(GEMMA, "3090ti", {"n_ctx": 4096}).gpus == vramfit.estimate(model, cards, asked).gpus
    )
    assert vramfit.which(GEMMA, {"n_ctx": 512}, gpus="4090,3060").fits
    assert vramfit.requantize(MODEL, 7).file_type == vramfit.requantize(MODEL, "q8_0").file_type == "Q8_0"
    one = vramfit.compare(MODEL, CARDS[0], file_types="Q8_0, Q4_0", cache_types="f16", **SMALL)
    assert [c.file_type for c in one.choices] == ["Q8_0", "Q4_0"]
    assert (
        vramfit.sweep(MODEL, CARDS[0], n_ctx=512, gpu_sets="none", file_types="Q8_0,Q4_0").gpu_sets[1] == ()
    )
    assert vramfit.parse_gpus("3090ti:22000")[0].free == 22000 << 20
    with pytest.raises(vramfit.GpuError, match="MiB, or GiB"):
        vramfit.parse_gpus("3090ti:22")


def test_values_are_shown_short_and_printable() -> None:
    """Messages show anything on one line, whatever its repr does."""
    for value in ("x" * 10**6, "\x1b[31m\n\u202e", Hostile(), [["x"] * 99] * 99):
        assert len(shown(value)) <= 160
        assert shown(value).isprintable()


# --- the same question both ways


def run(*args: str) -> Result:
    return CliRunner().invoke(main, [*args, "--json"])


QUESTIONS: list[tuple[list[str], dict[str, Any]]] = [
    ([], {}),
    (["-fa", "on", "-ctk", "Q8_0", "-ctv", "q8_0"], {"flash_attn": "on", "type_k": "q8_0", "type_v": "q8_0"}),
    (["-c", "43,008"], {"n_ctx": 43008}),  # where all rows of logits would move a layer
    (["-c", "32k", "-np", "2", "-ub", "1024"], {"n_ctx": 32768, "n_seq_max": 2, "n_ubatch": 1024}),
    (["-ngl", "40", "-nkvo"], {"n_gpu_layers": 40, "offload_kqv": False}),
]


ASKED = [(None, *q) for q in QUESTIONS] + [
    (engine, *QUESTIONS[1]) for engine in ("ollama", "llama-cpp-python")
]


@pytest.mark.parametrize(("engine", "words", "fields"), ASKED, ids=map(str, range(len(ASKED))))
def test_python_and_the_command_line_agree(
    engine: str | None, words: list[str], fields: dict[str, Any]
) -> None:
    """The same flags and fields give the same plan, and both say whose defaults it stands on."""
    said = run("plan", str(QWEN), "--gpus", "3090ti,3060", *words, *(["--engine", engine] if engine else []))
    found = json.loads(said.output)
    settings = vramfit.engine_settings(engine or "llama-server", fields)
    plan = (
        plan_for(QWEN, "3090ti,3060", settings, engine)
        if engine
        else vramfit.plan(QWEN, "3090ti,3060", settings)
    )
    assert [g["total"] for g in found["gpus"]] == [g.total for g in plan.estimate.gpus]
    assert (found["n_ctx"], tuple(found["tensor_split"])) == (plan.n_ctx, plan.tensor_split)
    assert found["host"]["total"] == plan.estimate.host.total
    assert Settings(**found["settings"]) == plan.settings
    assert found["settings"]["defaults"] == plan.settings.defaults == (engine or "llama-server")


def test_a_pasted_line_is_the_same_question() -> None:
    """A plan's command, pasted behind `--`, is planned as the plan that printed it."""
    settings = vramfit.server_settings(flash_attn="on")
    plan = vramfit.plan(QWEN, "3090ti,3060", settings)
    found = json.loads(
        CliRunner().invoke(main, ["plan", "--gpus", "3090ti,3060", "--json", "--", plan.command()]).output
    )
    assert (found["n_ctx"], tuple(found["tensor_split"])) == (plan.n_ctx, plan.tensor_split)
    assert [g["total"] for g in found["gpus"]] == [g.total for g in plan.estimate.gpus]
    assert found["ignored"] == ["--fit"]


def test_the_trained_context_can_be_asked_for() -> None:
    """`--ctx train`, as `-c 0` in the engine, asks about the trained length; `--ctx max` about what fits."""
    for words, status in ((["-c", "0"], 3), (["--ctx", "train"], 3), (["--ctx", "max"], 0), ([], 0)):
        result = run("plan", str(QWEN), "--gpus", "24GiB", "-fa", "on", *words)
        assert (result.exit_code, json.loads(result.output)["n_ctx"] > 1_000_000) == (status, bool(status)), (
            words
        )


def test_results_say_whose_defaults_they_stand_on() -> None:
    """In text, whether asked in Python or on the command line."""
    from vramfit._report.plans import plan_text

    assert "(defaults of llama.cpp)" in plan_text(vramfit.plan(MODEL, CARDS, {"n_ctx": 512}))
    assert "(defaults of llama-server)" in plan_text(
        vramfit.plan(MODEL, CARDS, vramfit.server_settings(n_ctx=512))
    )
    result = CliRunner().invoke(
        main, ["plan", str(GEMMA), "--gpus", "4090", "-c", "train", "--engine", "ollama"]
    )
    assert "(defaults of ollama)" in result.output
    assert "Context 131,072" in result.output
    assert replace(vramfit.server_settings(), n_ctx=1).defaults == "llama-server"
