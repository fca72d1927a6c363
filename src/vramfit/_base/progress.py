"""Show a progress bar on standard error: only on a terminal, and only after a short delay."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Bar"]

PATIENCE: Final = 0.7  # seconds before a person wonders


class _Open(threading.local):
    """Whether a bar is open in this thread."""

    yes = False


_OPEN: Final = _Open()


class Bar:
    """`with Bar("sweep", 100) as bar`, then `bar.advance()` at most so many times; without a number it only moves.

    A bar within another shows nothing: what a person waits for is the outer one.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self._what = what
        self._total = total
        self._done = 0
        self._from = time.monotonic() + PATIENCE if sys.stderr.isatty() else float("inf")
        self._shown: Progress | None = None

    def __enter__(self) -> Bar:
        self._outermost, _OPEN.yes = not _OPEN.yes, True
        if not self._outermost:
            self._from = float("inf")
        return self

    def advance(self) -> None:
        """Count one step as done."""
        self._done += 1
        if self._shown is None and time.monotonic() > self._from:
            self._shown = self._start()
        if self._shown is not None:
            self._shown.update(self._shown.task_ids[0], completed=self._done)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._outermost:
            _OPEN.yes = False
        if self._shown is not None:
            self._shown.stop()

    def _start(self) -> Progress:
        from rich.console import Console
        from rich.progress import Progress

        shown = Progress(console=Console(stderr=True), transient=True)
        shown.add_task(self._what, total=self._total)
        shown.start()
        return shown
