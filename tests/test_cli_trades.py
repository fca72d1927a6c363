"""`--prefer`, `--alternatives`, `--explain` and `which` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from vramfit._cli import main
from vramfit._report.schema import PlanJson, ShortlistJson

QWEN = str(Path(__file__).parents[1] / "examples" / "qwen2.5-14b-instruct-1m-q8_0.gguf")
ON = ("-fa", "on")


def run(*args: str) -> Result:
    return CliRunner().invoke(main, args)


def found(*args: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(run(*args, "--json").output)
    return read


def test_a_few_alternatives_are_shown_where_nothing_fits() -> None:
    """A plan that does not fit still exits with 3, and says what would."""
    result = run("plan", QWEN, "--gpus", "3060-12gb", "--ctx", "16384", *ON)
    assert result.exit_code == 3
    assert "Alternatives: the context of each slot with one change." in result.output
    assert "none → 16,384" in result.output
    assert "without gain" not in result.output


def test_alternatives_are_shown_where_asked() -> None:
    """--alternatives lists what each change carries, and what no change in it would."""
    output = run("plan", QWEN, "--gpus", "24GiB", *ON, "--alternatives").output
    for word in ("-ctk q8_0 -ctv q8_0", "KLD 0.0010 on Llama 3 8B", "-ub 256", "-nkvo", "slower prompts"):
        assert word in output
    assert "Alternatives" not in run("plan", QWEN, "--gpus", "24GiB", *ON).output


def test_nothing_to_gain_is_said() -> None:
    """Where the context is the longest anyway, and where no single change is enough, one line says so."""
    longest = run("plan", QWEN, "--gpus", "24GiB", *ON, "--max-ctx", "4096", "--alternatives")
    assert "No single change allows more context: it is limited by max_ctx." in longest.output
    hopeless = run("plan", QWEN, "--gpus", "1GiB", "--ctx", "1000000", "-fa", "off")
    assert hopeless.exit_code == 3
    assert "No single change makes it fit" in hopeless.output


def test_a_preference_changes_the_plan() -> None:
    """--prefer makes a context fit that does not as asked, and says by which flags and at what cost."""
    asked = ("plan", QWEN, "--gpus", "3090ti,3060-12gb", "--ctx", "131072", *ON)
    assert run(*asked).exit_code == 3
    speed = run(*asked, "--prefer", "speed")
    assert speed.exit_code == 0
    assert "--prefer speed changes -ctv q5_1: narrower cache: no measure is published." in speed.output
    quality = found(*asked, "--prefer", "quality")
    assert (quality["fits"], quality["prefer"], quality["n_ctx"]) == (True, "quality", 131072)
    assert "-ngl" in quality["changed"]["flags"]
    assert quality["settings"]["type_k"] == quality["settings"]["type_v"] == "f16"
    assert quality["alternatives"] is None


def test_a_preference_that_is_met_changes_nothing() -> None:
    """What fits as asked stays, unless the most context is preferred."""
    assert "already keeps it" in run("plan", QWEN, "--gpus", "24GiB", *ON, "--prefer", "speed").output
    none = run("plan", QWEN, "--gpus", "24GiB", "--margin", "24GiB", *ON, "--prefer", "speed")
    assert none.exit_code == 3
    assert "finds nothing that fits" in none.output


def test_alternatives_in_json() -> None:
    """The object carries every row with its settings, and its schema reads it back."""
    plan = found("plan", QWEN, "--gpus", "3060-12gb", "--ctx", "16384", *ON)
    rows = PlanJson.model_validate(plan).alternatives
    assert rows
    assert {row.fits for row in rows} == {True, False}
    assert all(row.n_ctx == 16384 for row in rows if row.fits)
    assert plan["changed"] is None


def test_an_engine_names_what_it_can_be_told() -> None:
    """Alternatives for an engine are planned as it would run them."""
    plan = found("plan", QWEN, "--gpus", "3060-12gb", "--engine", "ollama-before-0.30", "-c", "8192")
    caches = {(r["settings"]["type_k"], r["settings"]["type_v"]) for r in plan["alternatives"]}
    assert caches <= {(t, t) for t in ("f16", "q8_0", "q4_0")}
    best = run(
        "plan", QWEN, "--gpus", "3060-12gb", "--engine", "llama-server", "-c", "8192", "--prefer", "quality"
    )
    assert best.exit_code == 0
    assert " -ngl " in best.output.split("Run:")[1]


def test_explain_ends_with_what_buys_most() -> None:
    """The last line of --explain names two changes, whatever context was asked about."""
    for extra in ([], ["--ctx", "8192"]):
        last = run("plan", QWEN, "--gpus", "24GiB", *ON, "--explain", *extra).output.splitlines()[-1]
        assert last.startswith("Most context for one change: -ctk q4_0 -ctv q4_0 (")
        assert "; -ub " in last
    longest = run("plan", QWEN, "--gpus", "24GiB", *ON, "--max-ctx", "1024", "--explain").output
    assert longest.splitlines()[-1].startswith("No single change allows more context")
    host = run("plan", QWEN, "--gpus", "3060-12gb", *ON, "--explain").output.splitlines()[-1]
    assert "a token read by the host" in host


def test_which() -> None:
    """Cards and pairs, few of them unless all are wanted, with the exit status of a plan."""
    few = run("which", QWEN, "--ctx", "65536", *ON)
    assert few.exit_code == 0
    assert "GeForce RTX 5090" in few.output
    assert "--all lists them" in few.output
    every = run("which", QWEN, "--ctx", "65536", *ON, "--all")
    assert len(every.output.splitlines()) > 10 * len(few.output.splitlines())
    assert "--all" not in every.output
    alone = found("which", QWEN, "--ctx", "65536", *ON, "--max-cards", "1")
    assert {len(c.gpus) for c in ShortlistJson.model_validate(alone).carriers} == {1}
    none = run("which", QWEN, "--ctx", "1000000", "-fa", "off", "--margin", "400GiB")
    assert none.exit_code == 3
    assert "No card" in none.output


def test_many_cards_that_are_alike_are_counted() -> None:
    """A line names a few cards of equal memory and counts the others."""
    from vramfit._report.shortlist import _alike

    assert _alike(("a",)) == "a"
    assert _alike(("a", "b", "c")) == "a, b or c"
    assert _alike(("a", "b", "c", "d", "e")) == "a, b, c or 2 others"


@pytest.mark.parametrize(
    "args", [["which"], ["which", QWEN, "--max-cards", "3"], ["plan", QWEN, "--prefer", "size"]]
)
def test_usage(args: list[str]) -> None:
    """What click itself refuses is a usage error."""
    assert run(*args).exit_code == 2
