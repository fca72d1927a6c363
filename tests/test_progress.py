"""A bar shows on a terminal after a while, and never gets in the way."""

from __future__ import annotations

import io

import pytest

from vramfit._base import progress


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


def test_nothing_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal standard error stays empty."""
    pipe = io.StringIO()
    monkeypatch.setattr("sys.stderr", pipe)
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    with progress.Bar("sweep", 1) as bar:
        bar.advance()
    assert pipe.getvalue() == ""
