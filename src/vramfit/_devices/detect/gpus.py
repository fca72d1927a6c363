"""A card that was seen → the `Gpu` that a plan counts on."""

from __future__ import annotations

import re
from typing import Any, Final

from ..._base.errors import GpuError
from ..._base.units import format_bytes
from ..catalogue import MIB, Card, rules
from ..drivers import facts_of
from ..host_memory import HostMemory
from ..names import versions
from ..noun import Gpu
from .nouns import Seen

__all__ = ["gpu_of", "known_card", "taken_sentence"]

DEFAULTS: Final = {"nvidia": "cuda", "amd": "hip", "intel": "vulkan", "apple": "metal"}
_ONLY_DRIVER: Final = {"nvidia": "nvidia", "apple": "moltenvk"}  # of Vulkan, for vendors with one
TAKEN: Final = 128 * MIB  # held by others, from where it is worth a sentence
_NOISE: Final = re.compile(r"\((?:R|TM|C)\)|\bGraphics\b|\([^()]*\)\s*$|\bMIG\b.*", re.IGNORECASE)


def known_card(name: str, vendor: str, mib: int = 0) -> Card | None:
    """Find the catalogue's card of a driver's name, which leaves out the size that tells versions apart."""
    if not vendor or " MIG " in name:
        return None
    bare = " ".join(_NOISE.sub(" ", name).split())
    for full in (f"{bare} {round(mib / 1024)}GB", bare):
        try:
            cards = [c for c in versions(full) if c.vendor == vendor] if bare else []
        except GpuError:
            continue
        if len(cards) == 1 or (cards and not mib):
            return cards[0]
    return None


def gpu_of(seen: Seen, host: HostMemory | None = None) -> Gpu | None:
    """Make a `Gpu` of what was measured, and of the catalogue where nothing was; None where no size is known at all.

    Free memory is what nobody holds, less what a process's own context will take. A card that shares the
    system's memory, and whose driver does not say how much, has what the system has available.
    """
    mib = (seen.total_bytes or 0) // MIB
    known = known_card(seen.name, seen.vendor, mib)
    backend = seen.backend or (known.backend if known else DEFAULTS.get(seen.vendor, "cuda"))
    unified = seen.unified or (known is not None and known.unified)
    total = _total(seen, known, backend)
    if total is None:
        return None
    free = seen.free_bytes
    if free is None and unified and seen.total_bytes is None and host is not None:
        total, free = min(total, host.total_bytes), host.available_bytes
    own = 0 if seen.by_engine and backend == "cuda" else _context(seen, known, backend, total)
    return Gpu(
        name=known.name if known and known.vendor == "apple" else seen.name,
        total_bytes=total,
        free_bytes=None if free is None else max(0, min(free, total) - own),
        bandwidth_gbs=known.bandwidth_gbs if known else None,
        overhead_bytes=own,
        unified=unified,
        id=known.id if known else None,
        assumed="; ".join(filter(None, (*(f"{seen.name}: {n}" for n in seen.notes), taken_sentence(seen)))),
        **{"compute_capability": _capability(seen, known, backend), **_facts(seen, known, backend)},
    )


def _total(seen: Seen, known: Card | None, backend: str) -> int | None:
    """What the engine sees of a card, in bytes: nvidia-smi prints more than that, for the driver keeps a part."""
    if seen.by_engine and seen.total_bytes:
        return seen.total_bytes
    if seen.total_bytes is None:
        mib = rules().total_mib(known) if known else None
        return None if mib is None else mib * MIB
    if seen.vendor != "nvidia" or " MIG " in seen.name:
        return seen.total_bytes
    mib = seen.total_bytes // MIB
    if known and known.linux_mib and known.nvidia_smi_mib == mib:
        return known.linux_mib[0] * MIB
    return (rules().total_mib(_nobody(seen, backend, mib)) or mib) * MIB


def _context(seen: Seen, known: Card | None, backend: str, total: int) -> int:
    """What a process of the engine will take for itself, in bytes."""
    card = _nobody(seen, backend, total // MIB, known.sm if known else None)
    return min(rules().context_mib(card, total // MIB) * MIB, total)


def _nobody(seen: Seen, backend: str, mib: int, sm: int | None = None) -> Card:
    """A card of which the catalogue knows nothing but what was seen."""
    return Card(
        id="",
        name=seen.name,
        vendor=seen.vendor or "nvidia",
        backend=backend,
        arch="",
        nvidia_smi_mib=mib,
        sm=sm,
    )


def _facts(seen: Seen, known: Card | None, backend: str) -> dict[str, Any]:
    """The fields of a card that follow from its backend, and from Vulkan's driver where that is known."""
    if backend == "sycl" and known and known.vendor == "intel":
        return facts_of(known, backend, known.id)[0]
    driver = seen.driver or _ONLY_DRIVER.get(seen.vendor, "")
    if backend != "vulkan" or not driver:
        return {"backend": backend}
    facts, _ = facts_of(None, driver, seen.name)
    old = known is not None and known.compute_capability in rules().vulkan_without_fp16
    return {**facts, "fp16": not old if seen.fp16 is None else seen.fp16}


def _capability(seen: Seen, known: Card | None, backend: str) -> str | None:
    """A capability is of the backend that it was told for."""
    found = seen.compute_capability or (known.compute_capability if known else None)
    is_gfx = found is not None and found.startswith("gfx")
    return found if found and is_gfx == (backend == "hip") and backend in ("cuda", "hip") else None


def taken_sentence(seen: Seen) -> str:
    """Say how much of a card others hold, and who; "" where that is next to nothing or not known."""
    if seen.total_bytes is None or seen.free_bytes is None or seen.unified:
        return ""
    users = sorted(seen.users, key=lambda u: -(u.n_bytes or 0))
    # What the engine finds free has its own context out, which is nobody else's.
    known = sum(u.n_bytes or 0 for u in users)
    taken = known if seen.by_engine else seen.total_bytes - seen.free_bytes
    if taken < TAKEN:
        return ""
    named = [f"{u.name} {format_bytes(u.n_bytes)}" if u.n_bytes else u.name for u in users[:4]]
    more = f" and {len(users) - 4} more" if len(users) > 4 else ""
    who = (
        f" ({', '.join(named)}{more})"
        if named
        else " (its screen, or programs that the driver does not name)"
        if seen.screen
        else ""
    )
    return f"{seen.name}: {format_bytes(taken)} are in use now{who}; what is closed before the engine starts is room more"
