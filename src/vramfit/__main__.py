"""Run the command line in a process of its own: `vramfit`, or `python -m vramfit`."""

from __future__ import annotations

import atexit
import gc
from typing import Final

__all__ = ["run"]

COLLECT_AFTER: Final = 200_000  # objects made and not freed; a plan makes fewer, and hardly a circle


def run() -> None:
    """Answer the arguments of this process, and exit.

    Searching for circles of garbage would take an eighth of a plan's time and find none, so it is done seldom; what
    is left at the end goes with the process, unsearched.
    """
    gc.set_threshold(COLLECT_AFTER)
    atexit.register(gc.freeze)
    from ._cli import main

    main(prog_name="vramfit")


if __name__ == "__main__":
    run()
