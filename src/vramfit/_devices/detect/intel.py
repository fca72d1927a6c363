"""Ask Intel's drivers: `xpu-smi`, or the kernel's files of xe and i915."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from .nouns import Asked, Here, Report, Seen, User, number
from .pci import Slot, model_name

__all__ = ["ask_intel", "ask_sysfs", "ask_xpu_smi", "parse_xpu_smi"]

INTEGRATED: Final = "0000:00:02.0"  # where every integrated GPU of Intel lies
MOST: Final = 16  # cards that are asked for one by one
_BUS: Final = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]")


def ask_intel(
    here: Here, slots: tuple[Slot, ...], users: Mapping[str, tuple[User, ...]]
) -> tuple[Report, ...]:
    """Ask `xpu-smi`, which knows what is free, and the kernel where the tool is missing or fails."""
    first = ask_xpu_smi(here)
    return (first,) if first.seen else (first, ask_sysfs(here, slots, users))


def ask_xpu_smi(here: Here) -> Report:
    """Ask `xpu-smi discovery` for the cards, then for each one's memory."""
    answer = here.ask("xpu-smi", "discovery", "-j")
    listed = parse_xpu_smi(answer.text)
    if answer.missing or not listed:
        said = answer.failure or "named no card"
        return Report(Asked("xpu-smi", missing=answer.missing, failure=said))
    found = []
    for number_, card in list(listed.items())[:MOST]:
        alone = (
            {}
            if card.total_bytes
            else parse_xpu_smi(here.ask("xpu-smi", "discovery", "-d", number_, "-j").text)
        )
        found.append(next(iter(alone.values()), card))
    return Report(Asked("xpu-smi", len(found)), tuple(found))


def parse_xpu_smi(text: str) -> dict[str, Seen]:
    """Read the JSON of `xpu-smi discovery -j`, a list of cards or one, by the tool's number; sizes are bytes."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    listed = data.get("device_list", [data]) if isinstance(data, dict) else data
    found: dict[str, Seen] = {}
    for values in listed if isinstance(listed, list) else ():
        name = values.get("device_name") if isinstance(values, dict) else None
        which = number(str(values.get("device_id"))) if isinstance(values, dict) else None
        if isinstance(name, str) and which is not None and values.get("device_type", "GPU") == "GPU":
            found[str(which)] = _card(name, values)
    return found


def _card(name: str, values: dict[str, Any]) -> Seen:
    total = number(str(values.get("memory_physical_size_byte", ""))) or None
    free = number(str(values.get("memory_free_size_byte", "")))
    bus = str(values.get("pci_bdf_address", "")).lower()
    return Seen(
        name=name,
        vendor="intel",
        total_bytes=total,
        free_bytes=None if total is None or free is None else min(free, total),
        bus=bus if _BUS.fullmatch(bus) else "",
        unified=bus == INTEGRATED,
    )


def ask_sysfs(here: Here, slots: tuple[Slot, ...], users: Mapping[str, tuple[User, ...]]) -> Report:
    """Read what xe and i915 say of their cards in /sys: the size at most, never what is free."""
    own = [slot for slot in slots if slot.vendor == "intel"]
    cards = [_from_sysfs(here, slot, users.get(slot.bus, ())) for slot in own]
    advice = "" if not own else "the kernel does not say what is free on it: install xpu-smi"
    return Report(Asked("xe, i915 (/sys)", len(cards), missing=not own, advice=advice), tuple(cards))


def _from_sysfs(here: Here, slot: Slot, users: tuple[User, ...]) -> Seen:
    """xe has a size for each tile of a card, Intel's own i915 one for the card, the kernel's i915 none."""
    folder = here.root / slot.folder
    files = (*folder.glob("tile*/physical_vram_size_bytes"), *folder.glob("drm/card*/lmem_total_bytes"))
    sizes = [here.number(path.relative_to(here.root)) or 0 for path in files]
    return Seen(
        name=model_name(here, slot) or f"Intel Graphics [{slot.device:#06x}]",
        vendor="intel",
        total_bytes=sum(sizes) or None,
        bus=slot.bus,
        unified=slot.bus == INTEGRATED,
        users=users,
    )
