"""`vramfit compare`, and results as files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from vramfit._cli import main
from vramfit._report.schema import ComparisonJson

QWEN = str(Path(__file__).parents[1] / "examples" / "qwen2.5-14b-instruct-1m-q8_0.gguf")
FEW = ("--file-types", "q8_0,Q4_K_M", "--cache-types", "f16,q8_0/q4_0")


def run(*args: str) -> Result:
    return CliRunner().invoke(main, args)


def test_table() -> None:
    """A line for each file type and cache type, with the sources of the measures."""
    result = run("compare", QWEN, "--gpus", "3090ti,3060-12gb", "-fa", "on", *FEW)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert [line.split()[:3] for line in lines[4:8]] == [
        ["Q8_0", "f16", "8.50"],
        ["Q8_0", "q8_0/q4_0", "8.50"],
        ["Q4_K_M", "f16", "4.87"],
        ["Q4_K_M", "q8_0/q4_0", "4.87"],
    ]
    assert "LLaMA 3 8b Scoreboard" in result.output


def test_json() -> None:
    """--json prints what the schema says, and nothing else."""
    result = run("compare", QWEN, "--gpus", "3090ti", "-fa", "on", "--json", *FEW)
    found = ComparisonJson.model_validate_json(result.output)
    assert [c.file_type for c in found.choices] == ["Q8_0", "Q8_0", "Q4_K_M", "Q4_K_M"]
    assert found.choices[2].measure is not None
    assert found.choices[2].measure.model == "Llama 3 8B"
    assert found.fits == any(c.fits for c in found.choices)
    assert found.settings["flash_attn"] == "on"


def test_exit_status() -> None:
    """3 when nothing fits; an unknown type is an error, a malformed option a usage error."""
    nothing = run("compare", QWEN, "--gpus", "4GiB", *FEW)
    assert nothing.exit_code == 3
    assert "Nothing fits" in nothing.output
    assert run("compare", QWEN, "--gpus", "3060-12gb", "--file-types", "Q9").exit_code == 1
    assert run("compare", QWEN, "--gpus", "3060-12gb", "--margin", "much").exit_code == 2


def test_all_file_types_and_needs_of_a_matrix() -> None:
    """`all` is every type of llama-quantize; those that need an importance matrix are named."""
    result = run(
        "compare", QWEN, "--gpus", "3060-12gb", "--file-types", "all", "--cache-types", "q8_0", "-c", "8192"
    )
    assert "this file" in result.output
    assert "Needs an importance matrix: IQ1_M, IQ1_S" in result.output


def test_host_bandwidth_gives_speeds_of_layers_on_the_host() -> None:
    """Without it nothing is known of layers on the host."""
    args = ("compare", QWEN, "--gpus", "3060-12gb", "-ngl", "10", "-c", "4096", "--json", *FEW)
    known = json.loads(run(*args, "--host-bandwidth", "80").output)
    unknown = json.loads(run(*args).output)
    assert all(c["tokens_per_second"] > 0 for c in known["choices"])
    assert all(c["tokens_per_second"] is None for c in unknown["choices"])


@pytest.mark.parametrize("command", [("plan",), ("compare", *FEW)])
def test_results_as_files(command: tuple[str, ...], tmp_path: Path) -> None:
    """--plot and --html write what they are asked for, beside the text."""
    name, *rest = command
    page, picture, image = tmp_path / "page.html", tmp_path / "picture.svg", tmp_path / "picture.PNG"
    args = (name, QWEN, "--gpus", "3090ti,3060-12gb", "-fa", "on", "-c", "8192", *rest)
    result = run(*args, "--html", str(page), "--plot", str(picture))
    assert result.exit_code == 0, result.output
    assert page.read_text("utf-8").startswith("<!DOCTYPE html>")
    assert "<svg" in picture.read_text("utf-8")
    assert run(*args, "--plot", str(image)).exit_code == 0
    assert image.read_bytes().startswith(b"\x89PNG")


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    """An unknown ending or a missing folder is one line on standard error."""
    args = ("plan", QWEN, "--gpus", "24GiB", "-c", "4096")
    for option, path in (("--plot", "p.gif"), ("--plot", "no/p.svg"), ("--html", "no/p.html")):
        result = run(*args, option, str(tmp_path / path))
        assert result.exit_code == 1
        assert Path(path).name in result.stderr
