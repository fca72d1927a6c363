"""Write results as files: `--plot` and `--html`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .._base.errors import SettingsError

if TYPE_CHECKING:
    from .._base.shown import Drawn
    from .._planner.whatif import Alternatives

__all__ = ["picture_options", "write_pictures"]

F = TypeVar("F", bound=Callable[..., Any])


def picture_options(command: F) -> F:
    """Add `--plot` and `--html`."""
    file = click.Path(dir_okay=False)
    plot = click.option(
        "--plot", type=file, metavar="FILE", help="Draw it: .svg, .png or .pdf. Needs matplotlib."
    )
    html = click.option("--html", type=file, metavar="FILE", help="Write it as one self-contained page.")
    return plot(html(command))


def write_pictures(
    result: Drawn,
    plot: str | None,
    html: str | None,
    others: Alternatives | None = None,
    host_bandwidth_gbs: float | None = None,
) -> None:
    """Write what was asked for; `others` go on the page of a plan. Raises `SettingsError` for a file that cannot be."""
    if plot is not None:
        from .._report.plots import FORMATS

        kind = plot.rpartition(".")[2].lower()
        if kind not in FORMATS:
            raise SettingsError(f"--plot {plot}: the name must end with .{', .'.join(FORMATS)}")
        figure = result.plot()
        _write(plot, lambda: figure.savefig(plot, format=kind))
    if html is not None:
        from .._report.html import page

        text = page(result, others, host_bandwidth_gbs)
        _write(html, lambda: _write_text(html, text))


def _write_text(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _write(path: str, write: Callable[[], object]) -> None:
    try:
        write()
    except OSError as e:
        raise SettingsError(f"cannot write {path}: {e.strerror}") from None
