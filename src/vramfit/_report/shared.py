"""Write a `SharedPlan`, several models on one machine, as text and as JSON."""

from __future__ import annotations

from .._planner.shared import SharedPlan
from .look import PLAIN, Look, mark_of
from .shared_facts import device_rows, missing, model_rows, verdict
from .shared_notes import shared_notes
from .tables import fits, render_table

__all__ = ["shared_text"]


def shared_text(plan: SharedPlan, look: Look = PLAIN, host_bandwidth_gbs: float | None = None) -> str:
    """Show the answer, the models, the devices with all of them, and what else there is to know of each and of all."""
    said = shared_notes(plan, host_bandwidth_gbs)
    head, *rows = model_rows(plan)
    parts = [
        look.paragraph(verdict(plan), "good" if plan.fits else "bad"),
        *(look.paragraph(text, "bad") for text in missing(plan)),
        render_table(head, rows, last_left=True, look=look),
        _devices(plan, look),
        *(look.paragraph(text) for text in said.common),
    ]
    for title, notes in said.models:
        lines = [look.paragraph(title, "strong")]
        lines += [look.paragraph(f"  {text}", mark_of(text)) for text in notes]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _devices(plan: SharedPlan, look: Look) -> str:
    """Show models as rows and devices as columns; turned round where the screen is too narrow."""
    table = device_rows(plan)
    if not fits(table[0], table[1:], look):
        table = [list(column) for column in zip(*table, strict=True)]
    return render_table(table[0], table[1:], look=look)
