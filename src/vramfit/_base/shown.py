"""Let results show themselves: as text, as HTML in a notebook, as a dict, as a picture.

The drawing is done in `_report`, which is given to them (see `given`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from .given import call

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Drawn", "Shown"]


class Shown:
    """The base of results: nothing but the ways to look at them."""

    __slots__ = ()

    def __str__(self) -> str:
        return cast(str, call("text", self))

    def _repr_html_(self) -> str:
        """Show the result in a notebook, as HTML."""
        return cast(str, call("html", self))

    def to_dict(self) -> dict[str, Any]:
        """Return the object that the command prints with --json, as plain dicts, lists, numbers and words (docs/reference/json.md)."""
        return cast("dict[str, Any]", call("dict", self))


class Drawn(Shown):
    """The base of results that have a picture, too."""

    __slots__ = ()

    def plot(self, **options: Any) -> Figure:
        """Draw the result as a matplotlib figure; `options` as in `vramfit._report.plots`.

        Raises `SettingsError` when matplotlib is not installed (`pip install 'gguf-vramfit[plots]'`).
        """
        return cast("Figure", call("plot", self, **options))
