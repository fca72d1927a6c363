"""A bar shows on a terminal after a while, and never gets in the way."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from conftest import ROOT

import vramfit
from vramfit._base import progress
from vramfit._llama.params import Settings
from vramfit._sources.load import read


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("patience", "expected"), [(-1.0, True), (60.0, False)])
def test_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, patience: float, expected: bool) -> None:
    """The bar is written once the wait is long."""
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr(progress, "PATIENCE", patience)
    with progress.Bar("sweep", 3) as bar:
        for _ in range(3):
            bar.advance()
    assert ("sweep" in screen.getvalue()) == expected


MODEL = read(ROOT / "examples" / "qwen2.5-14b-instruct-1m-q8_0.gguf")
ASKED = Settings(flash_attn="on", n_outputs_max=1, n_ubatch=64)
LONG: dict[str, Callable[[], object]] = {
    "plan": lambda: vramfit.plan(MODEL, "24GiB,8GiB", ASKED),
    "a plan that does not fit": lambda: vramfit.plan(MODEL, "6GiB,4GiB", ASKED),
    "alternatives": lambda: vramfit.trades(MODEL, "16GiB", replace(ASKED, n_ctx=40960), brief=True),
    "what a preference gives up": lambda: vramfit.best(MODEL, "24GiB", replace(ASKED, n_ctx=65536)),
    "which": lambda: vramfit.which(MODEL, replace(ASKED, n_ctx=8192), gpus="nvidia"),
    "compare": lambda: vramfit.compare(MODEL, "24GiB", ASKED, file_types=["Q8_0"], cache_types=["f16"]),
    "sweep": lambda: vramfit.sweep(MODEL, "24GiB", ASKED, n_ctx=[4096, 8192]),
}


@pytest.mark.parametrize("work", LONG.values(), ids=LONG)
def test_what_may_take_long_shows_a_bar(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> None:
    """Whatever searches shows one bar, the outermost, and takes it away."""
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    shown: list[str] = []
    start = progress.Bar._start

    def noted(bar: progress.Bar) -> object:
        shown.append(bar._what)
        return start(bar)

    monkeypatch.setattr(progress.Bar, "_start", noted)
    work()
    assert shown
    assert screen.getvalue()
    with progress.Bar("the next one") as bar:
        bar.advance()
    assert shown[-1] == "the next one"


def test_nothing_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal standard error stays empty."""
    pipe = io.StringIO()
    monkeypatch.setattr("sys.stderr", pipe)
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    with progress.Bar("sweep", 1) as bar:
        bar.advance()
    assert pipe.getvalue() == ""
