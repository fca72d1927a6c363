"""Write the terms of every number as text: `vramfit plan --explain`."""

from __future__ import annotations

from collections.abc import Sequence

from .._base.units import format_bytes
from .._estimate.explain import Explanation
from .look import PLAIN, Look
from .tables import render_table

__all__ = ["explained_text"]


def explained_text(found: Sequence[Explanation], look: Look = PLAIN) -> str:
    """Show one table a device: each number, then its terms, largest first."""
    return "\n\n".join(_device(x, look) for x in found)


def _device(found: Explanation, look: Look) -> str:
    rows = []
    for name, figure, terms in (
        ("weights", found.device.model, found.model),
        ("context", found.device.context, found.context),
        ("compute", found.device.compute, found.compute),
    ):
        if figure:
            rows.append([name, "", format_bytes(figure), ""])
            rows += [["", t.name, format_bytes(t.n_bytes), t.why] for t in terms]
    table = render_table(["figure", "term", "size", "why"], rows, left=2, last_left=True, look=look)
    return look.paragraph(found.device.name, "strong") + "\n" + table
