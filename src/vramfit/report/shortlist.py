"""A `Shortlist` as tables and as JSON: `vramfit which`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

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
    """Single cards, pairs, and chips that come with their computer; few of each unless `everything` is wanted."""
    margin = format_bytes(found.margin_bytes)
    asked = f"{found.n_ctx:,} tokens with {margin} left on every card"
    parts = [f"{model_name(found.model)} · {found.model.file_type or found.model.architecture} · {asked}"]
    if not found.fits:
        return "\n\n".join((*parts, "No card to choose from carries that, and no pair that was tried."))
    tables = (
        ("card", [c for c in found.singles if not c.built_in]),
        ("pair", found.pairs),
        ("in a computer", [c for c in found.singles if c.built_in]),
    )
    for name, carriers in tables:
        if carriers:
            parts.append(_table(name, carriers, len(carriers) if everything else SHOWN))
    parts.append(
        f"{_ORDER[found.sort]} first. GB/s: of a pair the slower card's. tokens/s: bandwidth over the weights that a"
        " token reads, an upper bound."
    )
    return "\n\n".join(parts)


_ORDER: Final = {"memory": "Least memory", "bandwidth": "Most bandwidth", "speed": "Most tokens/s"}


def _table(name: str, carriers: Sequence[Carrier], most: int) -> str:
    rows = [
        [
            _names(c),
            format_mib(c.total_bytes),
            format_mib(c.free_bytes),
            f"{c.bandwidth_gbs:,.0f}" if c.bandwidth_gbs else "",
            f"≤ {c.tokens_per_second:.0f}" if c.tokens_per_second else "",
        ]
        for c in carriers[:most]
    ]
    table = render_table([name, "MiB", "free", "GB/s", "tokens/s"], rows)
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
    return _as_schema(found).model_dump_json(indent=2)


def _as_schema(found: Shortlist) -> ShortlistJson:
    from .schema import CarrierJson, ShortlistJson, settings_json

    return ShortlistJson(
        model=found.model.source or found.model.name,
        architecture=found.model.architecture,
        n_ctx=found.n_ctx,
        margin=found.margin_bytes,
        fits=found.fits,
        sort=found.sort,
        carriers=[
            CarrierJson(
                total=c.total_bytes,
                free=c.free_bytes,
                backend=c.gpus[0].backend,
                gpus=[g.name for g in c.gpus],
                alike=[list(names) for names in c.alike],
                built_in=c.built_in,
                bandwidth_gbs=[g.bandwidth_gbs for g in c.gpus],
                tokens_per_second=c.tokens_per_second,
            )
            for c in found.carriers
        ],
        settings=settings_json(found.settings),
    )
