"""Report every fault of a catalogue in one error."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from .._base.errors import GpuError, shown
from .catalogue import catalogue_path, load

__all__ = ["validate_catalogue"]


def validate_catalogue(path: str | Path | None = None) -> int:
    """Check a catalogue (the installed one by default) and return the number of its entries.

    Raises `GpuError` that lists every fault: file, card, field, value.
    """
    from pydantic import ValidationError

    from .schema import CatalogueSchema

    if not isinstance(path, str | Path | None):
        raise GpuError(f"path={shown(path)}: give the path of a catalogue, or None")
    path = Path(path) if path else catalogue_path()
    data = load(path)
    faults: list[str] = []
    try:
        CatalogueSchema.model_validate(data)
    except ValidationError as e:
        faults = [_sentence(data, error["loc"], error["msg"], error.get("input")) for error in e.errors()]
    cards = data.get("cards")
    entries = [c for c in cards if isinstance(c, dict)] if isinstance(cards, list) else []
    faults += _cross_check(entries, data.get("sources"))
    if faults:
        raise GpuError(f"{path}: {len(faults)} faults", *faults)
    return len(entries)


def _sentence(data: dict[str, Any], loc: tuple[int | str, ...], message: str, value: object) -> str:
    """Name the card by its id where it has one."""
    where = ".".join(str(x) for x in loc)
    if len(loc) > 1 and loc[0] == "cards" and isinstance(loc[1], int):
        entry = data["cards"][loc[1]]
        name = entry.get("id", f"card {loc[1] + 1}") if isinstance(entry, dict) else f"card {loc[1] + 1}"
        where = f"{name}: {'.'.join(str(x) for x in loc[2:]) or 'entry'}"
    return f"{where} = {value!r:.60}: {message}"


def _cross_check(entries: list[dict[str, Any]], sources: object) -> list[str]:
    """Find what one card alone cannot show: ids twice, names of fields and sources that do not exist."""
    faults = [
        f"{i}: id given {n} times" for i, n in Counter(str(c.get("id")) for c in entries).items() if n > 1
    ]
    known = sources if isinstance(sources, dict) else {}
    for card in entries:
        for field, allowed in (("sources", known), ("unverified", card)):
            named = card.get(field)
            for x in named if isinstance(named, list) else ():
                if isinstance(x, str) and x not in allowed:
                    faults.append(
                        f"{card.get('id')}: {field} = {x!r}: give one of {', '.join(map(str, allowed))}"
                    )
    return faults
