"""Which cards the variables of the environment leave to a program, by the drivers' own rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from .nouns import Seen

__all__ = ["chosen", "visible"]

# Of AMD's, each chooses among those that the one before it leaves; the second of a pair counts where the first is unset.
_VARIABLES: Final = {
    "nvidia": (("CUDA_VISIBLE_DEVICES",),),
    "amd": (("ROCR_VISIBLE_DEVICES",), ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")),
}


def visible(cards: Sequence[Seen], environ: Mapping[str, str]) -> tuple[tuple[Seen, ...], tuple[str, ...]]:
    """Return the cards that CUDA and ROCm let a program see, in its order, and a note for each variable that counts."""
    notes = []
    kept = {
        vendor: [c for c in cards if c.vendor == vendor] for vendor in dict.fromkeys(c.vendor for c in cards)
    }
    for vendor, variables in _VARIABLES.items():
        for names in variables:
            name = next((n for n in names if n in environ), "")
            if name and kept.get(vendor):
                before = len(kept[vendor])
                kept[vendor] = chosen(kept[vendor], environ[name])
                notes.append(f"{name}={environ[name]!r:.60} leaves {len(kept[vendor])} of {before} cards")
    return tuple(card for own in kept.values() for card in own), tuple(notes)


def chosen(cards: Sequence[Seen], value: str) -> list[Seen]:
    """Choose by numbers and the beginnings of UUIDs; the first that means nothing ends the list, as CUDA has it."""
    found: list[Seen] = []
    for word in value.split(","):
        bare = word.strip()
        if bare.isascii() and bare.isdecimal() and int(bare) < len(cards):
            card = cards[int(bare)]
        elif bare.lower().startswith(("gpu-", "mig-")):
            every = [one for card in cards for one in (card, *card.others)]
            match = [c for c in every if c.uuid.lower().startswith(bare.lower())]
            if len(match) != 1:
                break
            card = match[0]
        else:
            break
        if any(card is other for other in found):
            return []  # a card twice is an error of the driver's, and no card
        found.append(card)
    return found
