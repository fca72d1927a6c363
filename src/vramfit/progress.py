"""A line on standard error while something takes long: on a terminal only, and not before a while."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["shown"]

T = TypeVar("T")
PATIENCE: Final = 0.7  # seconds before a person wonders


def shown(steps: Collection[T], what: str) -> Iterator[T]:
    """`steps` one by one, with a bar on standard error once they have taken a while."""
    if not sys.stderr.isatty():
        yield from steps
        return
    patient_until = time.monotonic() + PATIENCE
    bar = None
    try:
        for done, step in enumerate(steps):
            yield step
            if bar is None and time.monotonic() > patient_until:
                bar = _bar(what, len(steps))
            if bar is not None:
                bar.update(bar.task_ids[0], completed=done + 1)
    finally:
        if bar is not None:
            bar.stop()


def _bar(what: str, total: int) -> Progress:
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)
    bar.add_task(what, total=total)
    bar.start()
    return bar
