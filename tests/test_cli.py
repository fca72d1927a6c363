"""The command line: what people type, what they get, and the exit status."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from vramfit._cli import main
from vramfit._cli.options import to_settings
from vramfit._devices import parse_gpus
from vramfit._devices.detect import Found
from vramfit._engines.settings import server_settings
from vramfit._llama.params import EXPERTS, Settings

QWEN = str(Path(__file__).parents[1] / "examples" / "qwen2.5-14b-instruct-1m-q8_0.gguf")


def run(*args: str) -> Result:
    return CliRunner().invoke(main, args)


def settings(*args: str) -> Settings:
    """The settings that `plan` would use."""
    with main.commands["plan"].make_context("plan", ["model.gguf", *args]) as context:
        return to_settings(context.params)


def test_plan_prints_the_cards_side_by_side() -> None:
    """A fitting plan names cards, terms, context and limit, and exits with 0."""
    result = run("plan", QWEN, "--gpus", "3090ti,3060-12gb", "-fa", "on")
    assert result.exit_code == 0, result.output
    for word in (
        "RTX 3090 Ti",
        "RTX 3060",
        "host",
        "weights",
        "context",
        "compute",
        "limited by",
        "--tensor-split",
    ):
        assert word in result.output


def test_plan_exits_3_when_it_does_not_fit() -> None:
    """One context that is too large is an answer, not an error: it says how much is missing."""
    result = run("plan", QWEN, "--gpus", "3060-12gb", "--ctx", "65536")
    assert result.exit_code == 3
    assert re.search(r"does not fit: .* is short of \S+ GiB", result.output)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["no-such.gguf", "--gpus", "3060-12gb"], "no-such.gguf"),
        ([QWEN, "--gpus", "3069"], "3069"),
        ([QWEN, "--gpus", "3060-12gb", "-ctv", "q8_0", "-fa", "off"], "requires flash_attn"),
        ([QWEN, "--gpus", "3060-12gb", "-m", "other.gguf"], "two models"),
    ],
)
def test_errors_are_one_line_and_exit_1(args: list[str], message: str) -> None:
    """Whatever a person can get wrong is one line on standard error."""
    result = run("plan", *args)
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


@pytest.mark.parametrize("args", [["plan"], ["plan", QWEN, "-fa", "maybe"], ["plan", QWEN, "--margin", "much"],
                                  ["plan", QWEN, "-ngl", "some"], ["plan", QWEN, "-ts", "1,x"], ["no-such-command"],
                                  ["plan", QWEN, "-ot", "exps=CUDA1"], ["plan", QWEN, "-sm", "row"],
                                  ["plan", QWEN, "--max-ctx", "0"], ["plan", QWEN, "-c", "lots"]])  # fmt: skip
def test_usage_exits_2(args: list[str]) -> None:
    """What cannot be an option or its value is a usage error, which names the last word."""
    result = run(*args)
    assert result.exit_code == 2
    assert args == ["plan"] or args[-1].partition("=")[0] in result.stderr


def test_plan_json() -> None:
    """--json prints one object with sizes in bytes and the settings by the engine's names."""
    result = run("plan", "-m", QWEN, "--gpus", "2x24GiB", "-c", "8192", "--json")
    found = json.loads(result.output)
    assert result.exit_code == 0
    assert (found["n_ctx"], found["fits"], found["schema_version"]) == (8192, True, 1)
    assert sum(g["layers"] for g in found["gpus"]) == 49
    assert found["gpus"][0]["total"] == sum(found["gpus"][0][k] for k in ("model", "context", "compute"))
    assert found["settings"]["n_ubatch"] == 512
    assert found["host"]["free"] is None


def test_inspect() -> None:
    """Identity, attention and tensor types, as text and as JSON."""
    text = run("inspect", QWEN).output
    for word in ("qwen2", "Q8_0", "1,010,000", "full attention", "196,608 bytes"):
        assert word in text
    found = json.loads(run("inspect", QWEN, "--json").output)
    assert found["architecture"] == "qwen2"
    assert found["cache_bytes_per_token"] == 48 * 2 * 1024 * 2
    assert found["layer_kinds"][0]["layers"] == list(range(48))


def test_gpus() -> None:
    """The catalogue, one card of it, and a misspelt one."""
    assert "GeForce RTX 3090 Ti" in run("gpus").output
    assert "24564 MiB" in run("gpus", "3090 ti").output
    assert json.loads(run("gpus", "3090ti", "--json").output)[0]["id"] == "rtx-3090-ti"
    assert len(json.loads(run("gpus", "--json").output)) > 150
    assert run("gpus", "3090tii").exit_code == 1
    assert "no faults" in run("gpus", "--check").output


def test_cards_of_this_machine_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --gpus the machine is asked; where it has no card, a person is told to name some."""
    monkeypatch.setattr("vramfit._devices.detect.find.find_cards", lambda here: Found())
    result = run("plan", QWEN)
    assert result.exit_code == 1
    assert "--gpus none" in result.stderr
    assert "vramfit doctor" in result.stderr


def test_llama_cpp_flags_can_be_pasted() -> None:
    """Short and long names of llama.cpp mean what they mean there."""
    pasted = "-c 32768 -ngl 99 -fa on -ctk q8_0 -ctv q4_0 -b 1024 -ub 256 -np 2 -kvu -ts 3/1 -sm layer -mg 0 -nkvo --swa-full"
    assert settings(*pasted.split()) == Settings(
        n_ctx=32768, n_gpu_layers=99, flash_attn="on", type_k="q8_0", type_v="q4_0", n_batch=1024, n_ubatch=256,
        n_seq_max=2, kv_unified=True, n_outputs_max=2, tensor_split=(3, 1), offload_kqv=False, swa_full=True,
    )  # fmt: skip
    long = (
        "--ctx-size 32768 --n-gpu-layers all --flash-attn off --cache-type-k f32 --batch-size 64 --parallel 1"
    )
    assert settings(*long.split()) == Settings(
        n_ctx=32768, flash_attn="off", type_k="f32", n_batch=64, n_outputs_max=1
    )
    assert settings() == server_settings()


def test_experts_on_the_host() -> None:
    """--cpu-moe, --n-cpu-moe and -ot become the patterns that llama.cpp makes of them."""
    assert settings("-cmoe").cpu_tensors == (EXPERTS,)
    assert settings("-ncmoe", "2").cpu_tensors == (rf"blk\.0{EXPERTS}", rf"blk\.1{EXPERTS}")
    assert settings("-ot", "a=CPU,b=cpu", "-ot", "c=CPU").cpu_tensors == ("a", "b", "c")


def test_outputs_follow_the_slots_unless_said_otherwise() -> None:
    """llama-server keeps one row of logits a slot; 0 keeps them all."""
    assert settings("-np", "4").n_outputs_max == 4
    assert settings("--outputs", "0").n_outputs_max == 0


def test_every_option_is_documented() -> None:
    """Each command's help shows an example, and each option says what it does."""
    everything = click.Context(main)
    for name in main.list_commands(everything):
        command = main.get_command(everything, name)
        assert command is not None
        assert f"vramfit {name}" in (command.help or ""), name
        for parameter in command.params:
            hidden = getattr(parameter, "hidden", False) or parameter.param_type_name == "argument"
            assert hidden or getattr(parameter, "help", None), (name, parameter.name)


def test_it_runs_as_a_module_and_a_script() -> None:
    """`python -m vramfit` is the same command."""
    out = subprocess.check_output([sys.executable, "-m", "vramfit", "--version"], text=True)
    assert "vramfit" in out


def test_a_process_seldom_searches_for_garbage() -> None:
    """What `vramfit` runs as searches for circles of garbage only when far more is kept than a plan makes."""
    code = """
import gc, sys
from vramfit.__main__ import run
sys.argv = ["vramfit", "gpus", "4090"]
try:
    run()
finally:
    print(gc.get_threshold()[0])
"""
    out = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert out.splitlines()[-1] == "200000"


def test_a_build_is_named_on_the_command_line() -> None:
    """By a number, by an engine's version, or by what is typed last; what names none is an error with the next step."""
    by_number = run("plan", QWEN, "--gpus", "3090ti", "--ctx", "8192", "--engine-build", "b8470")
    assert "b8470: August 2025 to b9451" in by_number.output
    by_version = run("plan", QWEN, "--gpus", "3090ti", "--ctx", "8192", "--engine", "ollama@0.24", "--json")
    found = json.loads(by_version.output)
    assert (found["settings"]["engine_build"], found["settings"]["defaults"]) == (
        "ollama@0.24",
        "ollama-before-0.30",
    )
    assert found["era"].startswith("ollama 0.24")
    assert run("plan", QWEN, "--engine-build", "newest").exit_code == 1
    assert run("plan", QWEN, "--engine", "ollama@newest").exit_code == 2


def test_the_machine_is_asked_for_its_engine_only_when_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--engine auto`, and the cards of this machine with no engine named; llama.cpp's own before Ollama's."""
    asked: list[str] = []
    answers = {"ollama": "ollama version is 0.31.2"}

    def answer(program: str) -> str:
        asked.append(program)
        return answers.get(program, "")

    monkeypatch.setattr("vramfit._cli.installed._run", answer)
    one = ("plan", QWEN, "--gpus", "3090ti", "--ctx", "8192", "--json")
    assert json.loads(run(*one).output)["settings"]["engine_build"] == ""
    assert not asked
    assert json.loads(run(*one, "--engine", "auto").output)["settings"]["engine_build"] == "ollama@0.31.2"
    answers["llama-server"] = "version: 8470 (abc)"
    assert (
        json.loads(run(*one, "--engine", "auto").output)["settings"]["engine_build"] == "llama-server@b8470"
    )
    monkeypatch.setattr("vramfit._devices.detect.own_cards", lambda engine: parse_gpus("3090ti"))
    here = ("plan", QWEN, "--gpus", "auto", "--ctx", "8192", "--json")
    assert json.loads(run(*here).output)["settings"]["engine_build"] == "llama-server@b8470"
    answers.clear()
    assert run(*one, "--engine", "auto").exit_code == 2
