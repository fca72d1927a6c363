"""What people type → the cards it can mean.

Case, spaces, dashes and brand words do not count: "rtx 3090 Ti", "3090-ti" and "3090ti" are one
name. A memory size may follow: "a100 80gb", "m3-ultra-512gb". An exact name or alias wins over
names that differ in nothing but their memory.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from ..errors import GpuError
from .catalogue import Card, all_cards

__all__ = ["find"]

_BRANDS: Final = re.compile(
    r"(nvidia|geforce|quadro|tesla|amd|radeon|instinct|intel|arc|apple|rtx|gtx|rx|laptop gpu(?=.)|generation)"
)
_SIZE: Final = re.compile(r"(.*?)(\d+)g(?:i?b)?$")


def find(name: str) -> Card:
    """The card that `name` means.

    Raises `GpuError`: for an unknown name with the nearest known ones, for a name that several
    cards share with the names that tell them apart.
    """
    cards = _lookup(_key(name))
    if not cards:
        raise GpuError(f"--gpus: no card is called {name.strip()!r}; {_nearest(name)}")
    if len(cards) > 1:
        ids = ", ".join(c.id for c in cards)
        raise GpuError(f"--gpus: {name.strip()!r} can be {len(cards)} cards; give one of {ids}")
    return cards[0]


def _key(name: str) -> str:
    """Letters and digits alone, without brands: of "RTX 3090 Ti", "3090ti"."""
    text = name.lower().replace("laptop gpu", "laptop").replace("nvidia ", "")
    text = re.sub(r"[^a-z0-9]+", " ", text)
    bare = " ".join(w for w in text.split() if not _BRANDS.fullmatch(w))
    joined = (bare or text).replace(" ", "")
    return re.sub(r"^(rtx|gtx|rx)(?=\d)", "", joined)


@lru_cache(maxsize=1)
def _index() -> tuple[dict[str, list[Card]], dict[str, list[Card]]]:
    """Cards by exact key and by key without memory size."""
    exact: dict[str, list[Card]] = {}
    stems: dict[str, list[Card]] = {}
    for card in all_cards():
        for key in dict.fromkeys(_key(x) for x in (card.id, card.name, *card.aliases)):
            exact.setdefault(key, []).append(card)
            sized = _SIZE.fullmatch(key)
            stem = sized[1] if sized and int(sized[2]) == card.memory_gib else key
            bucket = stems.setdefault(stem, [])
            if card not in bucket:
                bucket.append(card)
    return exact, stems


def _lookup(key: str) -> list[Card]:
    exact, stems = _index()
    if key in exact:
        return exact[key]
    if (sized := _SIZE.fullmatch(key)) and sized[1] in stems:
        return [c for c in stems[sized[1]] if c.memory_gib == int(sized[2])]
    return stems.get(key, [])


def _nearest(name: str) -> str:
    import difflib

    key = _key(name)
    sized = _SIZE.fullmatch(key)
    exact, stems = _index()
    if sized and sized[1] in stems:
        return "known sizes: " + ", ".join(c.id for c in stems[sized[1]])
    close = difflib.get_close_matches(key, exact, n=3, cutoff=0.6)
    ids = dict.fromkeys(c.id for k in close for c in exact[k][:2])
    return f"did you mean {' or '.join(ids)}?" if ids else "`vramfit gpus` lists them; a size such as 24GiB will do"
