"""The engine's devices and the drivers' cards: which device is which card, and which of them the engine uses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from .gpus import DEFAULTS, known_card
from .nouns import Seen

__all__ = ["lacking_sentence", "merged", "once_each", "used"]

NEAR: Final = 0.08  # two drivers' sizes of one card differ by less, as a part of the size
_BUILDS: Final = {
    "nvidia": "CUDA or Vulkan", "amd": "ROCm (HIP) or Vulkan", "intel": "Vulkan or SYCL", "apple": "Metal",
}  # fmt: skip


def merged(devices: Sequence[Seen], cards: Sequence[Seen]) -> tuple[tuple[Seen, ...], tuple[Seen, ...]]:
    """Complete the engine's devices by what the drivers know of their cards; return them, and the cards left over."""
    left = list(cards)
    found = []
    for device in once_each(devices):
        card = _card_of(device, left)
        if card is not None:
            left = [c for c in left if c is not card]
            device = _completed(device, card)
        found.append(device)
    return tuple(found), tuple(left)


def once_each(devices: Sequence[Seen]) -> tuple[Seen, ...]:
    """Leave out devices that an earlier backend serves: a build with CUDA and Vulkan lists a card twice (llama.cpp:236-254)."""
    found: list[Seen] = []
    for device in devices:
        key = _key(device.name)
        same = sum(
            _key(d.name) == key and d.backend == device.backend for d in devices[: _at(devices, device)]
        )
        earlier = sum(_key(d.name) == key and d.backend != device.backend for d in found)
        if same >= earlier:
            found.append(device)
    return tuple(found)


def _at(devices: Sequence[Seen], device: Seen) -> int:
    return next(i for i, d in enumerate(devices) if d is device)


def _key(name: str) -> str:
    """A name as all backends give it: Vulkan's drivers add their own in brackets."""
    return re.sub(r"\s*\([^()]*\)$|\((?:R|TM)\)|[^a-z0-9]", "", name.lower())


def _card_of(device: Seen, cards: Sequence[Seen]) -> Seen | None:
    own = [c for c in cards if device.vendor in ("", c.vendor)]
    same = [c for c in own if _key(c.name) == _key(device.name)]
    size = device.total_bytes or 0
    near = [c for c in own if c.total_bytes and abs(c.total_bytes - size) <= NEAR * size]
    return next(iter(same or near or (own if len(own) == 1 else ())), None)


def _completed(device: Seen, card: Seen) -> Seen:
    """A device with its card's identity; where ROCm overlooks what others hold, the driver's lower figure of free counts."""
    free = device.free_bytes
    if device.backend == "hip" and card.free_bytes is not None and not card.unified:
        free = min(card.free_bytes, card.free_bytes if free is None else free)
    generic = known_card(device.name, device.vendor) is None
    sized = device.total_bytes is not None
    return replace(
        device,
        name=card.name if generic else device.name,
        vendor=card.vendor,
        total_bytes=device.total_bytes if sized else card.total_bytes,
        free_bytes=free if sized else card.free_bytes,
        compute_capability=device.compute_capability or card.compute_capability,
        bus=card.bus,
        uuid=card.uuid,
        unified=card.unified or device.unified,
        screen=card.screen,
        by_engine=sized,
        users=card.users,
        notes=card.notes,
    )


def used(cards: Sequence[Seen]) -> tuple[tuple[Seen, ...], tuple[str, ...]]:
    """Leave out GPUs that share the system's memory where there are others, as the engine does (llama.cpp:279-285)."""
    own = [c for c in cards if not is_integrated(c)]
    if not own or len(own) == len(cards):
        return tuple(cards), ()
    names = ", ".join(c.name for c in cards if is_integrated(c))
    return tuple(own), (
        f"{names} shares the system's memory: left out, for the engine uses such only where there is no other",
    )


def is_integrated(card: Seen) -> bool:
    """Whether a card shares the system's memory, as its driver or the catalogue says."""
    known = known_card(card.name, card.vendor)
    return card.unified or (known is not None and known.unified)


def lacking_sentence(card: Seen, program: str) -> str:
    """Say that the engine at hand does not use a card, and what to do."""
    wanted = _BUILDS.get(card.vendor, DEFAULTS.get(card.vendor, "its backend"))
    return (
        f"{program} on this machine lists no device for {card.name}: it was built without {wanted}, or cannot load that"
        " backend's libraries; install a build of llama.cpp that has it, or name the cards to plan for"
    )
