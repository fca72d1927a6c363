"""A `Shortlist` as tables and as JSON: `vramfit which`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ..foreign import json_text, printable
from ..shortlist import Carrier, Shortlist
from ..units import format_bytes, format_mib
from .plans import model_name
from .tables import render_table

if TYPE_CHECKING:
    from .schema import ShortlistJson

__all__ = ["shortlist_json", "shortlist_text"]

SHOWN: Final = 12  # rows of each table
NAMES: Final = 3  # of cards that are alike


def shortlist_text(found: Shortlist, *, everything: bool = False) -> str:
    """Single cards and pairs, least memory first; few of them unless `everything` is wanted."""
    margin = format_bytes(found.margin_bytes)
    asked = f"{found.n_ctx:,} tokens with {margin} left on every card · defaults of {found.settings.defaults}"
    kind = printable(found.model.file_type or found.model.architecture)
    parts = [f"{model_name(found.model)} · {kind} · {asked}"]
    if not found.fits:
        return "\n\n".join((*parts, "No card of the catalogue carries that, and no pair that was tried."))
    for name, carriers in (("card", found.singles), ("pair", found.pairs)):
        if carriers:
            parts.append(_table(name, carriers, len(carriers) if everything else SHOWN))
    return "\n\n".join(parts)


def _table(name: str, carriers: Sequence[Carrier], most: int) -> str:
    rows = [[_names(c), format_mib(c.total_bytes), format_mib(c.free_bytes)] for c in carriers[:most]]
    table = render_table([name, "MiB", "free"], rows)
    rest = len(carriers) - most
    return table if rest <= 0 else f"{table}\n... and {rest:,} more; --all lists them"


def _names(carrier: Carrier) -> str:
    return " + ".join(map(_alike, carrier.alike))


def _alike(names: Sequence[str]) -> str:
    """ "A, B or C", or the first few of them."""
    if len(names) > NAMES:
        return f"{', '.join(names[:NAMES])} or {len(names) - NAMES} others"
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def shortlist_json(found: Shortlist) -> str:
    """The JSON object of `vramfit which --json` (see docs/json.md)."""
    return json_text(_as_schema(found).model_dump())


def _as_schema(found: Shortlist) -> ShortlistJson:
    from .schema import CarrierJson, ShortlistJson, settings_json

    return ShortlistJson(
        model=found.model.source or found.model.name,
        architecture=found.model.architecture,
        n_ctx=found.n_ctx,
        margin=found.margin_bytes,
        fits=found.fits,
        carriers=[
            CarrierJson(
                total=c.total_bytes,
                free=c.free_bytes,
                backend=c.gpus[0].backend,
                gpus=[g.name for g in c.gpus],
                alike=[list(names) for names in c.alike],
            )
            for c in found.carriers
        ],
        settings=settings_json(found.settings),
    )
