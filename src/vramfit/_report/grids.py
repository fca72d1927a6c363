"""Write a `Sweep` in few words: its size, and the largest context of each combination."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .._base.units import format_bytes
from .._devices import assumed
from .._planner.older import era_title
from .look import PLAIN, Look
from .plans import model_name
from .tables import render_table

if TYPE_CHECKING:
    from .._planner.sweep import Sweep
    from .schema import SweepJson

__all__ = ["HEAD", "LEAST", "NAMES", "rows", "size", "sweep_text", "title", "what"]

HEAD: Final = (
    "gpus", "file_type", "type_k", "type_v", "n_seq_max", "n_ubatch", "n_ctx", "left", "exact",
)  # fmt: skip
NAMES: Final = 4  # of them are words
LEAST: Final = ("exact", "n_ubatch", "n_seq_max", "left")  # what a narrow screen leaves out first
SHOWN: Final = 12


def sweep_text(sweep: Sweep, look: Look = PLAIN) -> str:
    """Show a sweep on a terminal: size, table, what the table holds."""
    table = render_table(HEAD, rows(sweep), left=NAMES, look=look, drop=LEAST)
    head = "\n".join(map(look.paragraph, (title(sweep), size(sweep))))
    return "\n\n".join((head, table, look.paragraph(what(sweep))))


def title(sweep: Sweep) -> str:
    """Name the model, and how many points."""
    return f"{model_name(sweep.model)}: {len(sweep):,} point{'s' * (len(sweep) != 1)}"


def size(sweep: Sweep) -> str:
    """Say the lengths of the axes, and how many points fit."""
    axes = " × ".join(str(n) for n in sweep.shape if n > 1) or "1"
    fitting = int(sweep.columns["fits"].sum())
    return f"{axes}; {fitting:,} fit with {format_bytes(sweep.margin_bytes)} left on every card."


def rows(sweep: Sweep) -> list[list[str]]:
    """List the first combinations under `HEAD`, each at the largest context that fits."""
    best = sweep.largest()
    return [[_cell(name, best[i][name]) for name in HEAD] for i in range(min(SHOWN, len(best)))]


def what(sweep: Sweep) -> str:
    """Say what the rows are, and how many more there are."""
    more = len(sweep.largest()) - SHOWN
    said = f"The largest context that fits, for each combination{f'; {more:,} more' if more > 0 else ''}."
    sentences = assumed([gpu for gpus in sweep.gpu_sets for gpu in gpus])
    return " ".join((said, *(f"Warning: {w}." for w in sentences)))


def sweep_as_schema(sweep: Sweep) -> SweepJson:
    """Make the pydantic object of a sweep, codes as the words they stand for."""
    from .schema import SweepJson, settings_json

    columns = {
        name: [words[code] for code in column.tolist()]
        if (words := sweep.categories.get(name))
        else column.tolist()
        for name, column in sweep.columns.items()
    }
    return SweepJson(
        model=sweep.model.source or sweep.model.name,
        architecture=sweep.model.architecture,
        margin=sweep.margin_bytes,
        shape=list(sweep.shape),
        columns=columns,
        settings=settings_json(sweep.settings),
        era=era_title(sweep.settings.engine_build),
    )


def _cell(name: str, value: int | str | bool) -> str:
    if name == "left":
        return format_bytes(int(value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else f"{value:,}"
