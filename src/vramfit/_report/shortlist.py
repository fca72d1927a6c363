"""Write a `Shortlist` as tables and as JSON: `vramfit which`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from .._base.foreign import json_text, printable
from .._base.units import format_bytes, format_mib
from .._planner.older import era_title
from .._planner.which import Carrier, Shortlist
from .look import PLAIN, Look
from .plans import model_name
from .tables import render_table

if TYPE_CHECKING:
    from .schema import ShortlistJson

__all__ = [
    "HEAD",
    "NONE",
    "SHOWN",
    "cells",
    "shortlist_as_schema",
    "shortlist_json",
    "shortlist_text",
    "title",
]

SHOWN: Final = 12  # rows of each table
NAMES: Final = 3  # of cards that are alike
HEAD: Final = ("MiB", "free", "GB/s", "tokens/s")  # behind the cards
NONE: Final = "No card to choose from holds that, and no pair that was tried."


def shortlist_text(found: Shortlist, look: Look = PLAIN, *, everything: bool = False) -> str:
    """Show single cards, pairs, and chips that come with their computer; few of each unless `everything` is wanted."""
    parts = [look.paragraph(title(found))]
    if not found.fits:
        return "\n\n".join((*parts, look.paragraph(NONE, "bad")))
    for name, carriers in tables(found):
        parts.append(_table(name, carriers, len(carriers) if everything else SHOWN, look))
    parts.append(look.paragraph(order(found)))
    return "\n\n".join(parts)


def title(found: Shortlist) -> str:
    """Name the model, and what its cards have to hold."""
    model = found.model
    asked = f"{found.n_ctx:,} tokens with {format_bytes(found.margin_bytes)} left on every card"
    stands = f"defaults of {found.settings.defaults} · llama.cpp {printable(era_title(found.settings.engine_build))}"
    return f"{model_name(model)} · {model.file_type or model.architecture} · {asked} · {stands}"


def tables(found: Shortlist) -> list[tuple[str, Sequence[Carrier]]]:
    """Group what is listed, under the heading of its first column; nothing empty."""
    found_tables = [
        ("card", [c for c in found.singles if not c.built_in]),
        ("pair", found.pairs),
        ("in a computer", [c for c in found.singles if c.built_in]),
    ]
    return [(name, carriers) for name, carriers in found_tables if carriers]


def order(found: Shortlist) -> str:
    """Say what stands first, and what the last columns are."""
    return (
        f"{_ORDER[found.sort]} first. GB/s: of a pair the slower card's. tokens/s: bandwidth over the weights that a"
        " token reads, an upper bound."
    )


_ORDER: Final = {"memory": "Least memory", "bandwidth": "Most bandwidth", "speed": "Most tokens/s"}


def cells(carrier: Carrier) -> list[str]:
    """Put cards in words, then what `HEAD` names."""
    return [
        _names(carrier),
        format_mib(carrier.total_bytes),
        format_mib(carrier.free_bytes),
        f"{carrier.bandwidth_gbs:,.0f}" if carrier.bandwidth_gbs else "",
        f"≤ {carrier.tokens_per_second:.0f}" if carrier.tokens_per_second else "",
    ]


def _table(name: str, carriers: Sequence[Carrier], most: int, look: Look) -> str:
    table = render_table([name, *HEAD], [cells(c) for c in carriers[:most]], look=look, drop=("free", "GB/s"))
    rest = len(carriers) - most
    return table if rest <= 0 else f"{table}\n... and {rest:,} more; --all lists them"


def _names(carrier: Carrier) -> str:
    return " + ".join(map(_alike, carrier.alike))


def _alike(names: Sequence[str]) -> str:
    """Write "A, B or C", or the first few of them."""
    if len(names) > NAMES:
        return f"{', '.join(names[:NAMES])} or {len(names) - NAMES} others"
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def shortlist_json(found: Shortlist, ignored: Sequence[str] = ()) -> str:
    """Write the JSON object of `vramfit which --json` (see docs/reference/json.md); `ignored` are flags that size nothing."""
    return json_text(shortlist_as_schema(found).model_dump() | {"ignored": list(ignored)})


def shortlist_as_schema(found: Shortlist) -> ShortlistJson:
    """Make the pydantic object behind `shortlist_json`."""
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
        era=era_title(found.settings.engine_build),
    )
