"""Reports of differences: what they hold, and each that was kept, replayed."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import settings as settings_
from hypothesis import strategies as st
from small import mixture
from test_verify import CARD, EXAMPLE, LOG, MODEL, SETTINGS, printed

import vramfit
from vramfit._base.errors import SourceError
from vramfit._cli import main
from vramfit._estimate.estimate import estimate
from vramfit._verify import verify
from vramfit._verify.report import as_report, replay, report_text

REPORTS = Path(__file__).parent / "data" / "reports"
KEPT = sorted(REPORTS.glob("*.json"))


@pytest.mark.parametrize("path", KEPT, ids=lambda p: p.stem)
def test_kept_reports(path: Path) -> None:
    """What agreed when a report was written agrees today, and what did not is no further away, and never lower."""
    report = json.loads(path.read_text())
    found = replay(report)
    assert len(found.rows) == len(report["rows"])
    for now, then in zip(found.rows, report["rows"], strict=True):
        middle = (then["low"] + then["high"]) // 2
        assert now.agrees >= then["agrees"], (now, then)
        assert abs(now.estimate - middle) <= abs(then["estimate"] - middle)
        if now.judged and then["estimate"] >= then["low"]:
            assert now.estimate >= then["low"]


def test_a_report_replays_to_the_same_figures() -> None:
    """Dimensions, tensors, settings and cards are enough; also of several cards, host layers and moved experts."""
    model = vramfit.read(EXAMPLE)
    asked = replace(SETTINGS, n_ctx=8192, tensor_split=(2.0, 1.0), n_gpu_layers=40)
    found = verify(model, printed(estimate(model, [CARD, CARD], asked), model))
    again = replay(json.loads(report_text(found)))
    assert [(r.estimate, r.measured, r.judged) for r in again.rows] == [
        (r.estimate, r.measured, r.judged) for r in found.rows
    ]
    assert again.verdict == found.verdict == "equal"


def test_a_report_names_nobody() -> None:
    """No path, no name of a model, of a card or of a person, no command line: whatever the log and the header say."""
    secret = "SECRETIVE"
    model = vramfit.read(EXAMPLE)
    log = printed(estimate(model, [CARD], replace(SETTINGS, n_ctx=4096)), model)
    log = (
        f"$ llama-server -m /home/{secret}/x.gguf --alias {secret} -c 4096 --api-key {secret}\n"
        + log.replace("GeForce", secret)
    )
    log = log.replace("build:", f"/home/{secret} build:")
    hparams = {**model.hparams, "note": f"made by {secret}", "list": (1, 2)}
    found = verify(replace(model, name=secret, source=f"/home/{secret}/x.gguf", hparams=hparams), log)
    text = report_text(found)
    assert secret not in text
    assert "/home" not in text
    assert json.loads(text)["model"]["hparams"]["list"] == [1, 2]


def test_nothing_to_report() -> None:
    """Without a model, or of another one, there are no figures to show."""
    for found in (verify(None, LOG), verify(replace(MODEL, n_embd=7), LOG)):
        with pytest.raises(SourceError, match="nothing to report"):
            as_report(found)


@pytest.mark.parametrize(
    "change",
    [{"report": 2}, {"model": {}}, {"model": {"architecture": "none", "hparams": {}, "tensors": []}}, {"gpus": [{}]}, {"buffers": [[1]]},
     {"settings": {"n_ctx": -5}}, {"rows": None, "buffers": None}, {"offloaded": ["x", 1]}],
    ids=str,
)  # fmt: skip
def test_what_is_no_report(change: dict[str, Any]) -> None:
    """Said as one error of ours, whatever is wrong."""
    report = json.loads(report_text(_found()))
    with pytest.raises(vramfit.VramfitError):
        replay({**report, **change})


def _found() -> Any:
    model = vramfit.read(EXAMPLE)
    return verify(model, printed(estimate(model, [CARD], SETTINGS), model), causes=False)


REPORT: dict[str, Any] = {}


@given(st.data())
@settings_(max_examples=40, deadline=None)
def test_hostile_reports(data: st.DataObject) -> None:
    """A report that somebody changed raises our errors alone."""
    if not REPORT:
        REPORT.update(json.loads(report_text(_found())))
    part = data.draw(st.sampled_from(sorted(REPORT)))
    junk = st.recursive(
        st.none() | st.integers(-5, 10**12) | st.text(max_size=5),
        lambda x: st.lists(x, max_size=3),
        max_leaves=5,
    )
    with contextlib.suppress(vramfit.VramfitError):
        replay({**REPORT, part: data.draw(junk)})


def test_the_command_writes_one_file(tmp_path: Path) -> None:
    """And says what is in it."""
    model = vramfit.read(EXAMPLE)
    log = tmp_path / "x.log"
    log.write_text(printed(estimate(model, [CARD], SETTINGS), model))
    file = tmp_path / "report.json"
    done = CliRunner().invoke(main, ["verify", EXAMPLE, "--log", str(log), "--report", str(file)])
    assert done.exit_code == 0, done.output
    assert "no names and no paths" in done.stderr
    assert replay(json.loads(file.read_text())).agrees
    folder = CliRunner().invoke(
        main, ["verify", EXAMPLE, "--log", str(log), "--report", str(tmp_path / "none" / "x")]
    )
    assert folder.exit_code != 0


def test_experts_that_stay_on_the_host() -> None:
    """Where the log does not say which tensors moved, the bytes on the card tell how many layers keep their experts."""
    from vramfit._llama.flags import first_experts

    model = mixture(MODEL, n_expert=8, n_used=2)
    for n in (0, 3, 8):
        made = estimate(model, [CARD], replace(SETTINGS, cpu_tensors=first_experts(n)))
        found = verify(model, printed(made, model), causes=False)
        assert found.settings.cpu_tensors == first_experts(n)
        assert found.agrees


def test_a_report_of_a_short_list() -> None:
    """A list that lacks a part is no report."""
    report = json.loads(report_text(_found()))
    with pytest.raises(SourceError, match="no report"):
        replay({**report, "offloaded": [1]})
