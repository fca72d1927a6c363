"""What is loaded beside a model, on the command line: named by flags, or found with the model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import ROOT
from test_source_ollama import put

from vramfit._cli import main

sys.path.insert(0, str(ROOT))  # the tools are no part of the distribution

from tools.engine.adapters import adapter_bytes
from tools.engine.projectors import KINDS, header

QWEN = ROOT / "examples/qwen2.5-14b-instruct-1m-q8_0.gguf"
GEMMA = ROOT / "examples/gemma-3-12b-q4_k_m.gguf"
EYES = KINDS["gemma3"]()
PROJECTOR = header(EYES[0], EYES[1] | {"mm.input_projection.weight": (3840, 128)})


def planned(*words: str | Path) -> dict[str, Any]:
    found = CliRunner().invoke(main, ["plan", "--json", *map(str, words)])
    assert found.exit_code in (0, 3), found.output
    told: dict[str, Any] = json.loads(found.stdout)
    return told


def kinds(told: dict[str, Any]) -> list[str]:
    return [c["kind"] for c in told["company"]]


def test_flags_name_what_is_loaded_beside(tmp_path: Path) -> None:
    """A draft, a projector and an adapter, in one line; each is counted and in the command."""
    draft, eyes, adapter = (tmp_path / name for name in ("draft.gguf", "eyes.gguf", "adapter.gguf"))
    draft.write_bytes(GEMMA.read_bytes())
    eyes.write_bytes(PROJECTOR)
    adapter.write_bytes(adapter_bytes("gemma3", [("blk.0.attn_q.weight", (3840, 4096))]))
    words = ("--gpus", "2x24GiB", "-c", "8192", "--engine", "llama-server")
    told = planned(
        GEMMA, *words, "-md", draft, "-ngld", "9", "-devd", "CUDA1", "-ctkd", "q8_0", "-ctvd", "q8_0",
        "-otd", "ffn_up=CPU", "--spec-type", "draft-simple", "--spec-draft-n-max", "7", "-mm", eyes, "--lora", adapter,
    )  # fmt: skip
    assert kinds(told) == ["draft", "projector"]
    assert told["settings"]["n_outputs_max"] == 4 * 8
    for part in (
        "-ngld 9",
        "-devd CUDA1",
        "-ctkd q8_0",
        "-otd",
        "--spec-draft-n-max 7",
        f"--mmproj {eyes}",
        "--lora ",
    ):
        assert part in told["command"]
    assert [bool(t["compute"]) for t in told["company"][0]["gpus"]] == [False, True]
    again = planned("--gpus", "2x24GiB", "--engine", "llama-server", "--", *told["command"].split())
    assert again["company"] == told["company"]


def test_a_draft_that_drafts_nothing_is_warned_of() -> None:
    """It is loaded and counted, and this engine is told nothing of it; and a kind that needs one says so."""
    told = planned(QWEN, "--gpus", "80GiB", "-c", "4096", "-md", QWEN)
    assert any("drafts nothing with it" in w for w in told["warnings"])
    alone = planned(QWEN, "--gpus", "80GiB", "-c", "4096", "--spec-type", "draft-simple")
    assert any("needs a draft" in w for w in alone["warnings"])
    refused = CliRunner().invoke(main, ["plan", str(QWEN), "--gpus", "80GiB", "--spec-type", "draft-mtp"])
    assert "doesn't contain MTP layers" in refused.stderr


def test_other_commands_count_it_too(tmp_path: Path) -> None:
    """`which` and `compare` leave room for it as `plan` does; pictures draw it."""
    words = ("-md", str(GEMMA), "--spec-type", "draft-simple", "-c", "4096")
    which = CliRunner().invoke(
        main, ["which", str(GEMMA), *words, "--gpus", "nvidia desktop", "--max-cards", "1", "--json"]
    )
    alone = CliRunner().invoke(
        main, ["which", str(GEMMA), "-c", "4096", "--gpus", "nvidia desktop", "--max-cards", "1", "--json"])  # fmt: skip
    least = [min(c["total"] for c in json.loads(x.stdout)["carriers"]) for x in (which, alone)]
    assert least[0] > least[1]
    page = tmp_path / "plan.html"
    done = CliRunner().invoke(main, ["plan", str(GEMMA), "--gpus", "24GiB", *words, "--html", str(page)])
    assert done.exit_code == 0, done.output
    assert "company" in page.read_text()


@pytest.mark.parametrize("flag", [(), ("--no-mmproj",), ("--mmproj-offload",)])
def test_what_comes_with_a_model_of_ollama_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: tuple[str, ...]
) -> None:
    """Its projector's layer is, unless it is turned off; one that cannot be read is said, and nothing fails."""
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    put(tmp_path, "registry.ollama.ai/library/seeing/latest", model=GEMMA.read_bytes(), projector=PROJECTOR)
    told = planned("ollama:seeing", "--gpus", "24GiB", "-c", "4096", *flag)
    assert kinds(told) == ([] if "--no-mmproj" in flag else ["projector"])
    put(tmp_path, "registry.ollama.ai/library/odd/latest", model=GEMMA.read_bytes(), projector=b"GGML....")
    odd = CliRunner().invoke(main, ["plan", "ollama:odd", "--gpus", "24GiB", "-c", "4096", *flag])
    assert odd.exit_code == 0
    assert ("not counted" in odd.stderr) == ("--no-mmproj" not in flag)
