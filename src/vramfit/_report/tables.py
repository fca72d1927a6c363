"""Lay out tables in one way, so that all commands look alike.

Drawn here: a table library takes longer to import than a whole plan takes to compute, and leaves out no column.
What does not fit between the edges of a screen gives way in this order: the gaps, the columns that matter least,
words (they wrap), and then rows stand as blocks, one under the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Final, NamedTuple

from .._base.foreign import printable
from .look import PLAIN, Look, Marked, cell_len, mark_of, wrap

__all__ = ["fits", "render_facts", "render_table"]

GAPS: Final = (3, 2)
CELL: Final = 200  # characters of a cell, which others may have written
WORDS: Final = 24  # cells that a column of words keeps when it is wrapped


def render_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: int = 1,
    last_left: bool = False,
    look: Look = PLAIN,
    drop: Sequence[str] = (),
) -> str:
    """Show `rows` under `head` as text; the first `left` columns are words, the others numbers.

    `last_left`: the last column holds words, too. `drop` names columns that may be left out where the screen is
    too narrow, the least important first; a line says which were.
    """
    table = _Table(tuple(map(_cell, head)), tuple(tuple(map(_cell, row)) for row in rows), left, last_left)
    for wrapping in (False, True):
        for n in range(len(drop) + 1):
            kept = table.without(drop[:n])
            if (found := kept.fitted(look.width, wrapping)) is not None:
                missing = look.paragraph(f"Left out at this width: {', '.join(drop[:n])}.", "faint")
                return "\n".join([*kept.lines(*found, look), *([missing] if n else [])])
    return table.blocks(look)


def render_facts(facts: Sequence[tuple[str, str]], look: Look = PLAIN, width: int = 0) -> str:
    """Show a line for each name and what is said of it; names are `width` wide at least."""
    width = max(width, *(len(name) + 2 for name, _ in facts))
    return "\n".join(
        look.paragraph(f"{name:<{width}}{printable(value)}", indent=width) for name, value in facts
    )


def _cell(text: str) -> str:
    return Marked(printable(text, CELL), mark_of(text))


def fits(head: Sequence[str], rows: Sequence[Sequence[str]], look: Look) -> bool:
    """Whether a table needs nothing to give way but its gaps."""
    table = _Table(tuple(head), tuple(map(tuple, rows)), len(head), last_left=False)
    return table.fitted(look.width, wrapping=False) is not None


class _Table(NamedTuple):
    """A table before it is drawn."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int
    last_left: bool

    def without(self, names: Sequence[str]) -> _Table:
        """Drop some columns of the table."""
        at = [i for i, name in enumerate(self.head) if name not in names]
        return self._replace(
            head=tuple(self.head[i] for i in at),
            rows=tuple(tuple(row[i] for i in at) for row in self.rows),
            left=sum(i < self.left for i in at),
        )

    def widths(self) -> list[int]:
        """Count the cells of each column."""
        return [max(map(cell_len, column)) for column in zip(self.head, *self.rows, strict=True)]

    def fitted(self, width: int | None, wrapping: bool) -> tuple[list[int], int] | None:
        """Find widths of the columns, and the widest gap, with which the table fits; None if it cannot.

        With `wrapping`, columns of words may become as narrow as `WORDS`, the widest first.
        """
        widths = self.widths()
        words = [i for i in range(len(widths)) if self._is_words(i)] if wrapping and width is not None else []
        room = (width or 0) - GAPS[-1] * (len(widths) - 1)
        while words and (over := sum(widths) - room) > 0:
            i = max(words, key=widths.__getitem__)
            if widths[i] <= WORDS:
                return None
            next_widest = max((widths[j] for j in words if j != i), default=0)
            widths[i] = max(WORDS, widths[i] - over, min(widths[i] - 1, next_widest))
        gaps = (gap for gap in GAPS if width is None or sum(widths) + gap * (len(widths) - 1) <= width)
        found = next(gaps, None)
        return None if found is None else (widths, found)

    def lines(self, widths: Sequence[int], gap: int, look: Look) -> list[str]:
        """Lay out the lines of the table: head, rule, rows."""
        rule = "─" * (sum(widths) + gap * (len(widths) - 1))
        head = [look.paint(line, "strong") for line in self._row(self.head, widths, gap, PLAIN)]
        body = [line for row in self.rows for line in self._row(row, widths, gap, look)]
        return [*head, look.paint(rule, "faint"), *body]

    def _row(self, row: Sequence[str], widths: Sequence[int], gap: int, look: Look) -> Iterable[str]:
        """Lay out one row, on as many lines as the words of its cells need."""
        columns = [wrap(cell, width) for cell, width in zip(row, widths, strict=True)]
        for line in zip_longest(*columns, fillvalue=""):
            cells = zip(line, row, widths, strict=True)
            shown = (
                look.paint(self._padded(i, text, width), mark_of(cell))
                for i, (text, cell, width) in enumerate(cells)
            )
            yield (" " * gap).join(shown).rstrip()

    def _padded(self, i: int, cell: str, width: int) -> str:
        space = " " * (width - cell_len(cell))
        return cell + space if self._is_words(i) else space + cell

    def _is_words(self, i: int) -> bool:
        return i < self.left or (self.last_left and i == len(self.head) - 1)

    def blocks(self, look: Look) -> str:
        """Show each row as a block: its first words, then a line for every other cell that says something."""
        names = max((cell_len(name) for name in self.head[self.left :]), default=0) + 4
        numbers = [i for i in range(self.left, len(self.head)) if not self._is_words(i)]
        width = max((cell_len(row[i]) for row in self.rows for i in numbers), default=0)
        title = look.paragraph("  ".join(filter(None, self.head[: self.left])), "strong")
        rule = look.paint("─" * min(names + width, look.width or names + width), "faint")
        blocks = [f"{title}\n{rule}"]
        for row in self.rows:
            lines = [look.paragraph("  ".join(filter(None, row[: self.left])), "strong")]
            for i in range(self.left, len(row)):
                cell = self._padded(i, row[i], width) if i in numbers else row[i]
                if row[i]:
                    label = f"  {self.head[i]:<{names - 2}}"
                    lines.append(look.paragraph(label + cell, mark_of(row[i]), indent=names - 2))
            blocks.append("\n".join(lines))
        return "\n".join([blocks[0], "\n\n".join(blocks[1:])])
