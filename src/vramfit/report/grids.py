"""A `Sweep` in few words: its size, and the largest context of each combination."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..gpus import assumed
from ..units import format_bytes
from .plans import model_name
from .tables import render_table

if TYPE_CHECKING:
    from ..sweeps import Sweep

__all__ = ["HEAD", "NAMES", "rows", "size", "sweep_text", "title", "what"]

HEAD: Final = (
    "gpus", "file_type", "type_k", "type_v", "n_seq_max", "n_ubatch", "n_ctx", "left", "exact",
)  # fmt: skip
NAMES: Final = 4  # of them are words
SHOWN: Final = 12


def sweep_text(sweep: Sweep) -> str:
    """The page of a terminal: size, table, what the table holds."""
    table = render_table(HEAD, rows(sweep), left=NAMES)
    return "\n\n".join((f"{title(sweep)}\n{size(sweep)}", table, what(sweep)))


def title(sweep: Sweep) -> str:
    """The model, and how many points."""
    return f"{model_name(sweep.model)}: {len(sweep):,} point{'s' * (len(sweep) != 1)}"


def size(sweep: Sweep) -> str:
    """The lengths of the axes, and how many points fit."""
    axes = " × ".join(str(n) for n in sweep.shape if n > 1) or "1"
    fitting = int(sweep.columns["fits"].sum())
    return f"{axes}; {fitting:,} fit with {format_bytes(sweep.margin_bytes)} left on every card."


def rows(sweep: Sweep) -> list[list[str]]:
    """The first combinations under `HEAD`, each at the largest context that fits."""
    best = sweep.largest()
    return [[_cell(name, best[i][name]) for name in HEAD] for i in range(min(SHOWN, len(best)))]


def what(sweep: Sweep) -> str:
    """What the rows are, and how many more there are."""
    more = len(sweep.largest()) - SHOWN
    said = f"The largest context that fits, for each combination{f'; {more:,} more' if more > 0 else ''}."
    sentences = assumed([gpu for gpus in sweep.gpu_sets for gpu in gpus])
    return " ".join((said, *(f"Warning: {w}." for w in sentences)))


def _cell(name: str, value: int | str | bool) -> str:
    if name == "left":
        return format_bytes(int(value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else f"{value:,}"
