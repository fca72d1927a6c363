"""Fit text to where it is shown: how wide a line may be, and whether colour and weight say what matters.

Text is plain and as wide as it needs unless a `Look` says otherwise, so what is piped, kept or printed from
Python does not change with the screen. `rich` is imported for a screen alone: it takes longer than a plan.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from .._base.foreign import printable

__all__ = ["PLAIN", "Look", "Mark", "Marked", "cell_len", "mark_of", "wrap"]

Mark = Literal["", "good", "bad", "warn", "strong", "faint"]
STYLES: Final[dict[Mark, str]] = {
    "good": "bold green",
    "bad": "bold red",
    "warn": "yellow",
    "strong": "bold",
    "faint": "dim",
}


class Marked(str):
    """Text that matters: a screen gives its mark a colour, an HTML page a class, plain text nothing."""

    __slots__ = ("mark",)
    mark: Mark

    def __new__(cls, text: str, mark: Mark) -> Marked:
        """Mark `text`; "" marks nothing."""
        made = super().__new__(cls, text)
        made.mark = mark
        return made


def mark_of(text: str) -> Mark:
    """Find the mark of a text; "" where it has none."""
    return text.mark if isinstance(text, Marked) else ""


class Look(NamedTuple):
    """`width` is what a line may hold, in cells of the screen; None where nothing limits it."""

    width: int | None = None
    color: bool = False

    def paint(self, text: str, mark: Mark) -> str:
        """Paint `text` in the colour and weight of `mark`."""
        if not (self.color and mark):
            return text
        from rich.color import ColorSystem
        from rich.style import Style

        return Style.parse(STYLES[mark]).render(text, color_system=ColorSystem.STANDARD)

    def paragraph(self, text: str, mark: Mark = "", *, indent: int = 0) -> str:
        """Wrap one line of `text` between words and paint it; what follows its first line is indented."""
        lines = self._wrapped(printable(text), indent)
        return "\n".join(self.paint(line, mark or mark_of(text)) for line in lines)

    def _wrapped(self, line: str, indent: int) -> list[str]:
        if self.width is None:
            return [line]
        indent = min(indent + len(line) - len(line.lstrip(" ")), self.width // 2)
        first, *rest = wrap(line, self.width, indent)
        return [first, *(" " * indent + part for part in rest)]


PLAIN: Final = Look()


def cell_len(text: str) -> int:
    """Count the cells that a text takes on a screen: two for each wide character."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len as cells

    return cells(text)


def wrap(text: str, width: int, indent: int = 0) -> list[str]:
    """Wrap at `width` cells, between words where that can be; the first line may be `indent` longer."""
    if cell_len(text) <= width:
        return [text]
    from rich.console import Console
    from rich.text import Text

    console = Console(width=width, color_system=None)
    first = Text(text).wrap(console, width)[0].plain
    rest = Text(text[len(first) :].lstrip()).wrap(console, width - indent)
    return [first.rstrip(), *(line.plain.rstrip() for line in rest)]
