"""Several models on the command line: named one by one or in a list, with flags for all of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import ROOT

from vramfit._cli import main
from vramfit._planner.shared import OBJECTIVES

SMALL = ROOT / "examples/beside/qwen2.5-0.5b-instruct-q4_k_m.gguf"
GEMMA = ROOT / "examples/gemma-3-12b-q4_k_m.gguf"
EYES = ROOT / "examples/beside/mmproj-gemma-3-12b-f16.gguf"


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Two small models in a folder that is at hand."""
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(SMALL, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return "a.gguf", "b.gguf"


def run(*words: str, text: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["plan", *words], input=text)


def told(*words: str, text: str | None = None) -> dict[str, Any]:
    found = run(*words, "--json", text=text)
    assert found.exit_code in (0, 3), found.output
    answer: dict[str, Any] = json.loads(found.stdout)
    return answer


def plans(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [m["plan"] for m in answer["models"]]


def test_flags_apply_to_all(two: tuple[str, str]) -> None:
    """Each model is told them, and has the wish; names are those of the files."""
    answer = told(
        *two,
        "--gpus",
        "8GiB",
        "-fa",
        "on",
        "-ctk",
        "q8_0",
        "-np",
        "2",
        "--wish",
        "8k",
        "--jinja",
        "--outputs",
        "0",
    )
    assert [m["name"] for m in answer["models"]] == ["a", "b"]
    assert [m["wish"] for m in answer["models"]] == [8192, 8192]
    for plan in plans(answer):
        s = plan["settings"]
        assert (s["flash_attn"], s["type_k"], s["n_seq_max"], s["n_outputs_max"]) == ("on", "q8_0", 2, 0)
        assert plan["n_ctx"] == 8192
    assert (answer["objective"], answer["ignored"]) == ("share", ["--jinja"])


def test_a_context_is_fixed_for_all(two: tuple[str, str]) -> None:
    """As a number, or as the trained one; a limit cuts what is wished."""
    assert [(p["n_ctx"]) for p in plans(told(*two, "--gpus", "8GiB", "-c", "4k"))] == [4096, 4096]
    assert all(m["fixed"] for m in told(*two, "--gpus", "8GiB", "-c", "train")["models"])
    limited = told(*two, "--gpus", "8GiB", "--max-ctx", "1024")
    assert [(m["wish"], m["fixed"]) for m in limited["models"]] == [(1024, False)] * 2
    assert [m["wish"] for m in told(*two, "--gpus", "8GiB", "--max-ctx", "99k")["models"]] == [32768] * 2
    assert [m["wish"] for m in told(*two, "--gpus", "8GiB", "--wish", "train")["models"]] == [32768] * 2


def test_the_exit_status_says_whether_all_fit(two: tuple[str, str]) -> None:
    """0 where they do, 3 where one does not, 1 for an error."""
    fits = run(*two, "--gpus", "8GiB")
    assert (fits.exit_code, "2 of 2 models fit" in fits.stdout) == (0, True)
    assert run(*two, "--gpus", "2GiB", "-c", "32k").exit_code == 3
    assert run("a.gguf", "c.gguf", "--gpus", "8GiB").exit_code == 1
    assert run(*two, "--gpus", "8GiB", "--wishes", "1").exit_code == 2


def test_one_model_is_planned_as_ever(two: tuple[str, str]) -> None:
    """A `PlanJson`; and what is of several is refused for it."""
    assert told("a.gguf", "--gpus", "8GiB")["n_ctx"] == 32768
    assert "--wish is of several models; for one, --ctx asks" in run("a.gguf", "--wish", "4k").stderr
    assert "--maximise order is of several models; name more" in run("a.gguf", "--maximise", "order").stderr
    assert "Missing argument 'MODEL'" in run("--gpus", "8GiB").stderr


def test_objectives_are_those_of_the_solver(two: tuple[str, str]) -> None:
    """The command line knows them without importing it."""
    assert told(*two, "--gpus", "8GiB", "--maximise", "order")["objective"] == "order"
    refused = run(*two, "--maximise", "all")
    assert refused.exit_code == 2
    assert all(name in refused.stderr for name in OBJECTIVES)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prefer", "speed"], "--prefer changes the settings of one model; plan it alone"),
        (["--alternatives"], "--alternatives changes the settings of one model"),
        (["--all"], "--all lists the changes to one model's settings; leave it out"),
        (["--client", "aider"], "--client writes what a client is told of one model; plan it alone"),
        (["--assume", "llama"], "--assume llama is of one model"),
        (["--wish", "8k", "-c", "4k"], "--ctx fixes the context of every model, and --wish asks for another"),
        (["--wish", "8k", "--max-ctx", "4k"], "a.gguf: wish 8192 is above --max-ctx 4096"),
        (["-c", "8k", "--max-ctx", "4k"], "a.gguf: ctx 8192 is above --max-ctx 4096"),
        (["a.gguf"], "a.gguf is named twice; give each a name of its own in a list for --models"),
        (["-m", "c.gguf"], "two models given: a.gguf and c.gguf"),
        (["no.gguf"], "no.gguf: no such file"),
        (["--lora", "no.gguf"], "a.gguf: no.gguf: no such file"),
        (["-ctv", "q8_0", "-fa", "off"], "requires flash_attn"),
        (["--models", "list", "--wish", "0"], "give 1 or more"),
        ([str(i) + ".gguf" for i in range(8)], "10 models: give 1 to 8"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(two: tuple[str, str], words: list[str], said: str) -> None:
    """With the reason, and what to do instead."""
    found = run(*two, *words, "--gpus", "8GiB")
    assert found.exit_code in (1, 2)
    assert said in found.stderr
    assert found.stdout == ""


def test_a_list_has_settings_for_each(two: tuple[str, str]) -> None:
    """Each model of a script has its own; what counts in no plan is said of it, what was passed over once."""
    Path("run.sh").write_text(
        "#!/bin/sh\nset -e\nCUDA_VISIBLE_DEVICES=0 llama-server -m a.gguf -a coder -c 4k --jinja &\n"
        f"llama-server -m {GEMMA} --mmproj {EYES} --jinja --port 1\n"
    )
    found = run("--models", "run.sh", "--gpus", "24GiB", "--wish", "8k", "-np", "1")
    assert found.exit_code == 0, found.output
    assert (
        "Warning: coder: n_ctx=4096 of run.sh: line 3 gives way to wish of the command line" in found.stdout
    )
    assert "Warning: not counted: CUDA_VISIBLE_DEVICES=0" in found.stdout
    assert found.stdout.endswith("Ignored, sizes nothing: -a --jinja --port.\nPassed over: line 2: set\n")
    answer = told("--models", "run.sh", "--gpus", "24GiB")
    coder, eyes = plans(answer)
    assert (coder["n_ctx"], [c["kind"] for c in eyes["company"]]) == (4096, ["projector"])
    assert "company" not in coder or not coder["company"]
    assert [m["name"] for m in told("coder", "--models", "run.sh", "--gpus", "24GiB")["models"]] == ["coder"]


YAML = """
gpus: 8GiB
host: 64GiB
margin: 2GiB
maximise: order
models:
  - {model: a.gguf, wish: 8k}
  - {model: b.gguf, ctx: 2k}
"""


def test_a_list_says_cards_and_all_that_holds_for_it(two: tuple[str, str]) -> None:
    """What was typed goes over it, which is said where they differ."""
    answer = told("--models", "-", text=YAML)
    assert (answer["margin"], answer["objective"], answer["warnings"]) == (2 << 30, "order", [])
    assert 7 << 30 < answer["devices"][0]["free"] <= 8 << 30
    assert answer["devices"][-1]["free"] == 64 << 30
    typed = ("--gpus", "12GiB", "--host", "32GiB", "--margin", "1GiB", "--maximise", "share", "-c", "4k")
    over = told("--models", "-", *typed, text=YAML)
    assert over["warnings"] == [
        "--gpus 12GiB of the command line, not gpus: 8GiB of the list",
        "--host 32GiB of the command line, not host: 64GiB of the list",
        "--maximise share of the command line, not maximise: order of the list",
        "--margin of the command line, not margin: 2GiB of the list",
        "a: wish=8192 of <standard input>: models[0] gives way to ctx of the command line",
        "b: n_ctx=4096 of the command line, not n_ctx=2048 of <standard input>: models[1]",
    ]
    assert (over["margin"], over["devices"][-1]["free"]) == (1 << 30, 32 << 30)
    assert 11 << 30 < over["devices"][0]["free"] <= 12 << 30
    assert told("--models", "-", "--margin", "2GiB", text=YAML)["warnings"] == []


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("models: [a.gguf, no.gguf]", (), "<standard input>: models[1]: no.gguf: no such file"),
        ("margin: much\nmodels: [a.gguf]", (), "margin of the list: 'much' is not a size"),
        ("models: [{model: a.gguf, weight: 2}]", ("--maximise", "order"), "weight 2 of a counts for shares, and maximise order"),
        ("models: [{model: a.gguf, name: x}, {model: b.gguf, name: x}]", (), "two models are called 'x'"),
        ("models: [{model: a.gguf, weight: -1}]", (), "models[0]: weight=-1.0: give a number above 0"),
        ("models: [a.gguf]", ("c",), "no model in it is called 'c'; it has 'a'"),
        (SMALL.read_bytes()[:4096], (), "a GGUF file, not a list of models; name it without --models"),
        ("", (), "no model in it"),
    ],
)  # fmt: skip
def test_a_list_is_refused_with_its_place(
    two: tuple[str, str], text: str | bytes, words: tuple[str, ...], said: str
) -> None:
    found = run("--models", "-", "--gpus", "8GiB", *words, text=text)
    assert (found.exit_code, found.stdout) == (1, "")
    assert said in found.stderr
    assert "No such" not in found.stderr


def test_a_terminal_is_no_list(two: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a list to be typed."""
    monkeypatch.setattr("vramfit._cli.several.sys.stdin", type("Tty", (), {"isatty": lambda self: True})())
    from vramfit._base.errors import SourceError
    from vramfit._cli.models import Choice, Choices
    from vramfit._cli.several import _listed

    with pytest.raises(SourceError, match="standard input is a terminal"):
        _listed(Choices((), Choice("", "", "", True, None)), "-")


def test_terms_pictures_and_commands_are_of_each(two: tuple[str, str]) -> None:
    """`--explain` and `--engine` go through the models; `--engine-build` counts for all."""
    found = run(
        *two, "--gpus", "8GiB", "-c", "4k", "--explain", "--engine", "llama-server", "--html", "all.html"
    )
    assert found.exit_code == 0, found.output
    assert "<html" in Path("all.html").read_text()
    own = run(*two, "--gpus", "8GiB", "--wish", "4k", "--engine", "ollama")
    assert own.exit_code == 0, own.output
    assert "defaults of ollama" in own.stdout
    assert own.stdout.count("\nFROM ./") == 2
    assert "Run:" not in run(*two, "--gpus", "1GiB", "-c", "32k", "--engine", "ollama").stdout
    assert found.stdout.count("llama-server -m ") == 2
    assert found.stdout.index("\na\n\n") < found.stdout.index("\nb\n\n")
    older = told(*two, "--gpus", "8GiB", "-c", "4k", "--engine-build", "b8470")
    assert [p["settings"]["engine_build"] for p in plans(older)] == ["b8470"] * 2


def test_what_an_engine_cannot_be_told_is_refused_before_anything_is_said(two: tuple[str, str]) -> None:
    """One Ollama server has one cache type for all its models."""
    text = f"models:\n- {{model: {two[0]}, ctx: 4k, flags: -ctk q8_0 -ctv q8_0 -fa on}}\n- {{model: {two[1]}, ctx: 4k, flags: -fa on}}\n"
    found = run("--models", "-", "--gpus", "8GiB", "--engine", "ollama", text=text)
    assert found.exit_code == 1
    assert found.stdout == ""
    assert "OLLAMA_KV_CACHE_TYPE (a: q8_0, b: unset)" in found.stderr
