"""Find out how wide the terminal is, and whether it shows colours."""

from __future__ import annotations

import os
import sys
from typing import Final

import click

from .._report.look import PLAIN, Look

__all__ = ["look", "show_error"]

NARROWEST: Final = 20  # cells; less is no screen to read on


def look() -> Look:
    """Choose how to show text on standard output; plain where that is not a terminal, but for a width in COLUMNS.

    Without colour under NO_COLOR and on a dumb terminal, with it under FORCE_COLOR, as `rich` reads them.
    """
    if not (sys.stdout.isatty() or os.environ.get("FORCE_COLOR")):
        columns = os.environ.get("COLUMNS", "")
        return Look(max(NARROWEST, int(columns))) if columns.isdecimal() and int(columns) else PLAIN
    from rich.console import Console

    console = Console()
    color = console.color_system is not None and not console.no_color
    click.get_current_context().color = color  # else click takes colours out by rules of its own
    return Look(max(NARROWEST, console.width), color)


def show_error(message: str) -> None:
    """Write an error on standard error; its first words stand out on a screen that shows colours."""
    name = "vramfit:"
    if sys.stderr.isatty() or os.environ.get("FORCE_COLOR"):
        from rich.console import Console

        console = Console(stderr=True)
        if console.color_system is not None and not console.no_color:
            click.echo(f"{Look(color=True).paint(name, 'bad')} {message}", err=True, color=True)
            return
    click.echo(f"{name} {message}", err=True)
