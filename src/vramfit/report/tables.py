"""One way to draw a table, so that all commands look alike."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["render_table"]

PLAIN_WIDTH = 200  # of a table that goes to a file or a pipe: nothing is cut


def render_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """`rows` under `head` as text; the first `left` columns are names, the others numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for i, title in enumerate(head):
        table.add_column(title, justify="left" if i < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(width=PLAIN_WIDTH, color_system=None, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
