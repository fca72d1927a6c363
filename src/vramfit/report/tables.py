"""One way to draw a table, so that all commands look alike.

Plain columns, drawn here: a table library takes longer to import than a whole plan takes to compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..foreign import printable

__all__ = ["render_table"]

GAP: Final = "   "
CELL: Final = 200  # characters of a cell, which others may have written


def render_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1, last_left: bool = False
) -> str:
    """`rows` under `head` as text; the first `left` columns are words, the others numbers.

    `last_left`: the last column holds words, too.
    """
    head = [printable(cell, CELL) for cell in head]
    rows = [[printable(cell, CELL) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if i < left or (last_left and i == len(widths) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return GAP.join(padded).rstrip()

    rule = "─" * (sum(widths) + len(GAP) * (len(widths) - 1))
    return "\n".join([line(head), rule, *map(line, rows)])
