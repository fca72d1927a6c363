"""Every result shows itself: as text, as HTML, as the dict that its command prints; and none floods a prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from small import dense, gpu

import vramfit
from vramfit._base.shown import Shown
from vramfit._cli import main
from vramfit._report.dicts import as_dict
from vramfit._report.schema import AlternativesJson, EstimateJson, SweepJson

QWEN = str(Path(__file__).parents[1] / "examples" / "qwen2.5-14b-instruct-1m-q8_0.gguf")
AT = vramfit.server_settings(n_ctx=4096, flash_attn="on")
TYPED = ["--ctx", "4096", "-fa", "on"]


@pytest.fixture(scope="module")
def model() -> vramfit.Model:
    return vramfit.read(QWEN)


@pytest.fixture(scope="module")
def results(model: vramfit.Model) -> dict[str, Shown]:
    gpus = vramfit.parse_gpus("3060-12gb,3060-12gb")
    changes = vramfit.trades(dense(), [gpu(90)], replace(AT, n_ctx=8192), margin_bytes=1 << 20, brief=True)
    return {
        "model": model,
        "estimate": vramfit.estimate(model, gpus, AT),
        "plan": vramfit.plan(model, gpus, AT),
        "comparison": vramfit.compare(model, gpus, AT, file_types=["Q8_0", "Q4_0"]),
        "shortlist": vramfit.which(model, AT, max_cards=1),
        "alternatives": changes,
        "alternative": changes.rows[0],
        "sweep": vramfit.sweep(model, gpus, AT, n_ctx=[256, 4096], type_k=["f16", "q8_0"]),
    }


def printed(*arguments: str) -> Any:
    found = CliRunner().invoke(main, [*arguments, "--json"])
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("model", ["inspect", QWEN]),
        ("plan", ["plan", QWEN, *TYPED, "--gpus", "3060-12gb,3060-12gb"]),
        (
            "comparison",
            ["compare", QWEN, *TYPED, "--gpus", "3060-12gb,3060-12gb", "--file-types", "Q8_0,Q4_0"],
        ),
        ("shortlist", ["which", QWEN, *TYPED, "--max-cards", "1"]),
    ],
)
def test_a_dict_is_what_the_command_prints(results: dict[str, Shown], name: str, command: list[str]) -> None:
    """`to_dict()` and --json are one object."""
    assert results[name].to_dict() == printed(*command)


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for each in value.values():
            yield from leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from leaves(each)
    else:
        yield value


def test_every_result_has_all_its_ways(results: dict[str, Shown]) -> None:
    """Text, HTML, a dict of plain values that JSON carries, and a repr that a prompt can bear."""
    for name, result in results.items():
        assert str(result), name
        assert result._repr_html_().startswith('<div class="vramfit">'), name
        assert len(repr(result)) < 2000, name
        found = result.to_dict()
        assert json.loads(json.dumps(found)) == found, name
        assert {type(x) for x in leaves(found)} <= {int, float, str, bool, type(None)}, name


def test_dicts_without_a_command(results: dict[str, Any]) -> None:
    """An estimate, a table of alternatives and a sweep follow the schema and say what their attributes say."""
    one, changes, grid = results["estimate"], results["alternatives"], results["sweep"]
    found = EstimateJson(**one.to_dict())
    assert (found.n_ctx, found.fits, found.exact) == (one.n_ctx, one.fits, one.exact)
    assert [d.total for d in (*found.gpus, found.host)] == [d.total for d in (*one.gpus, one.host)]
    table = AlternativesJson(**changes.to_dict())
    assert [(row.flags, row.n_ctx) for row in table.alternatives] == [
        (r.flags, r.n_ctx) for r in changes.rows
    ]
    assert table.asked.model_dump(mode="json") == changes.asked.to_dict()
    assert results["alternative"].to_dict() == table.alternatives[0].model_dump(mode="json")
    columns = SweepJson(**grid.to_dict()).columns
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    assert rows == list(grid)


def test_a_models_repr_names_it(model: vramfit.Model) -> None:
    """Its name, architecture, size and source, on one short line; a name from a file is quoted."""
    said = repr(model)
    assert len(said) < 400
    assert "architecture='qwen2', file_type='Q8_0', n_layer=48, n_params=14770033664" in said
    assert "\n" not in repr(vramfit.requantize(model, "Q4_0"))


def test_only_results_are_described() -> None:
    """Anything else is a mistake of the caller's program."""
    with pytest.raises(TypeError, match="int is not a result"):
        as_dict(3)
