"""Find the cards that a typed name can mean.

Case, spaces, dashes and brand words do not count: "rtx 3090 Ti", "3090-ti" and "3090ti" are one
name. A memory size may follow: "a100 80gb", "m3-ultra-512gb". A name without one means all cards
that differ in nothing but their memory; an id, as the catalogue writes it, means one.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from .._base.errors import GpuError
from .catalogue import Card, all_cards

__all__ = ["find", "versions"]

_BRANDS: Final = re.compile(
    "nvidia|geforce|tesla|amd|radeon|instinct|intel|arc|apple|rtx|gtx|rx|generation|edition"
)
_NUMBER: Final = re.compile(r"\d+")
_SIZE: Final = re.compile(r"(.+?)(?: |(?<=[a-z]))(\d{1,4}) ?g(?:i?b)?")  # of spaced words


def find(name: str) -> Card:
    """Find the card that `name` means; of versions that differ in their memory, the smallest.

    Raises `GpuError` for an unknown name with the nearest known ones.
    """
    return versions(name)[0]


def versions(name: str) -> tuple[Card, ...]:
    """List the cards that `name` can mean, least memory first. Raises as `find` does."""
    cards = _lookup(name)
    if not cards:
        raise GpuError(f"no card is called {name.strip()!r}; {_nearest(name)}")
    return tuple(sorted(cards, key=lambda c: c.memory_gib or 0))


def _key(name: str) -> str:
    """Keep letters and digits alone, without brands: of "RTX 3090 Ti", "3090ti"."""
    words = _words(name)
    bare = "".join(w for w in words if not _BRANDS.fullmatch(w))
    return re.sub(r"^(rtx|gtx|rx)(?=\d)", "", bare or "".join(words))


def _words(name: str) -> list[str]:
    return re.sub(r"[^a-z0-9]+", " ", name.lower().replace("laptop gpu", "laptop")).split()


def _stem(name: str) -> tuple[str, int | None]:
    """Cut the memory size from the end of a key; return the rest and that size in GiB."""
    sized = _SIZE.fullmatch(" ".join(_words(name)))
    return (_key(sized[1]), int(sized[2])) if sized else (_key(name), None)


@lru_cache(maxsize=64)
def _index(number: str = "") -> tuple[dict[str, list[Card]], dict[str, list[Card]]]:
    """Index cards by key, and by key without memory size: those with a name that holds `number`.

    Keys take longer to make than the catalogue takes to read; a number leaves few to make.
    """
    exact: dict[str, list[Card]] = {}
    stems: dict[str, list[Card]] = {}
    for card in all_cards():
        for name in (card.id, card.name, *card.aliases):
            if number not in name:
                continue
            stem, _ = _stem(name)
            for index, key in ((exact, _key(name)), (stems, stem)):
                found = index.setdefault(key, [])
                if card not in found:
                    found.append(card)
    return exact, stems


def _lookup(name: str) -> list[Card]:
    number = _NUMBER.search(name)
    exact, stems = _index(number[0] if number else "")
    found = exact.get(_key(name), [])
    if own := [c for c in found if c.id == name.strip().lower()]:
        return own
    stem, gib = _stem(name)
    if gib is None:
        return list(dict.fromkeys((*stems.get(stem, ()), *found)))
    return found or [c for c in stems.get(stem, ()) if c.memory_gib == gib]


def _nearest(name: str) -> str:
    import difflib

    exact, stems = _index()
    stem, _ = _stem(name)
    if stem in stems:
        return "known sizes: " + ", ".join(c.id for c in stems[stem])
    key = _key(name)
    longer = [k for k in exact if key in k] if len(key) > 3 else []
    close = longer + difflib.get_close_matches(key, exact, n=5, cutoff=0.65)
    ids = dict.fromkeys(c.id for k in close for c in exact[k][:2])
    return (
        f"did you mean {' or '.join(list(ids)[:4])}?"
        if ids
        else "`vramfit gpus` lists them; a size such as 24GiB will do"
    )
