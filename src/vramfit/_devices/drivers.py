"""What a card's driver reports to Vulkan, and which backend a word behind a card's name asks for.

In: "radv", "vulkan", "hip" and the like. Out: a `Gpu` with that backend and the driver's limits, and what was taken for granted.
The limits are facts of the catalogue (`vulkan_drivers`); a size without a name has no vendor, so "vulkan" alone tells nothing of its driver.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .._base.errors import GpuError
from .catalogue import Card, rules

__all__ = ["backend_words", "facts_of", "is_backend_word"]

_VULKAN: Final = "vulkan"
_BACKENDS: Final = {"nvidia": ("cuda",), "amd": ("hip",), "intel": ("sycl",), "apple": ("metal",)}


def backend_words(vendor: str | None) -> tuple[str, ...]:
    """The words that may stand behind a card of a vendor: backends, then drivers; of any card where there is no vendor."""
    own = _BACKENDS.get(vendor or "", tuple(b for found in _BACKENDS.values() for b in found))
    drivers = rules().vulkan_drivers
    return (*own, _VULKAN, *(d for d, facts in drivers.items() if vendor in (None, facts["vendor"])))


def is_backend_word(word: str) -> bool:
    """Whether a word names a backend or a driver of any card."""
    return word in backend_words(None)


def facts_of(card: Card | None, word: str, name: str) -> tuple[dict[str, Any], str]:
    """The fields of `Gpu` that a backend's or a driver's word sets on a card, and what is taken for granted with it.

    Raises `GpuError` for a word that no card of that vendor runs under.
    """
    known = backend_words(card.vendor if card else None)
    if word not in known:
        raise GpuError(f"{name}:{word}: this card runs under {', '.join(known)}")
    drivers = rules().vulkan_drivers
    if word not in drivers and (word != _VULKAN or card is None):
        family = {"compute_capability": card.arch} if card and word == "sycl" else {}
        return {"backend": word, **family}, ""
    driver = word if card is None or word in drivers else _usual(card.vendor)
    fields = {"backend": _VULKAN, **_limits(drivers[driver])}
    fields["fp16"] = card is None or card.compute_capability not in rules().vulkan_without_fp16
    return fields, _granted(driver, name) if word == _VULKAN else ""


def _limits(driver: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "alignment": driver["alignment"],
        "host_alignment": driver["host_alignment"],
        "max_tensor_bytes": driver.get("max_tensor"),
        "reached_tensor_bytes": driver.get("reaches"),
    }


def _usual(vendor: str) -> str:
    return next(d for d, facts in rules().vulkan_drivers.items() if facts["vendor"] == vendor)


def _granted(driver: str, name: str) -> str:
    """A sentence about the driver that was taken, where a vendor has several."""
    facts = rules().vulkan_drivers
    others = [d for d, x in facts.items() if x["vendor"] == facts[driver]["vendor"] and d != driver]
    if not others:
        return ""
    choices = " or ".join(f"{name}:{d} ({facts[d]['title']})" for d in others)
    return f"{name!r} is counted with {facts[driver]['title']}; for another say {choices}"
