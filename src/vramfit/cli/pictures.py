"""Results as files: `--plot` and `--html`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import SettingsError

if TYPE_CHECKING:
    from ..shown import Shown

__all__ = ["picture_options", "write_pictures"]

F = TypeVar("F", bound=Callable[..., Any])


def picture_options(command: F) -> F:
    """Add `--plot` and `--html`."""
    file = click.Path(dir_okay=False, path_type=Path)
    plot = click.option(
        "--plot", type=file, metavar="FILE", help="Draw it: .svg, .png or .pdf. Needs matplotlib."
    )
    html = click.option("--html", type=file, metavar="FILE", help="Write it as one self-contained page.")
    return plot(html(command))


def write_pictures(result: Shown, plot: Path | None, html: Path | None) -> None:
    """Write what was asked for. Raises `SettingsError` for a file that cannot be."""
    if plot is not None:
        from ..plots import FORMATS

        kind = plot.suffix.removeprefix(".").lower()
        if kind not in FORMATS:
            raise SettingsError(f"--plot {plot}: the name must end with .{', .'.join(FORMATS)}")
        figure = result.plot()
        _write(plot, lambda: figure.savefig(plot, format=kind))
    if html is not None:
        from ..report.html import page

        text = page(result)
        _write(html, lambda: html.write_text(text, encoding="utf-8"))


def _write(path: Path, write: Callable[[], object]) -> None:
    try:
        write()
    except OSError as e:
        raise SettingsError(f"cannot write {path}: {e.strerror}") from None
