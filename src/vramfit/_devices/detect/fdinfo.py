"""Who holds memory of a card, as the kernel's drivers tell it for every file that a program has open on one."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from ..._base.foreign import printable
from .nouns import Here, User

__all__ = ["parse_fdinfo", "users_by_bus"]

_UNITS: Final = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_LINE: Final = re.compile(
    r"^drm-(?:(resident)|memory|total)-(?:vram0?|local0):\s+(\d{1,15})\s*(KiB|MiB|GiB)?\s*$", re.MULTILINE
)
_PLACE: Final = re.compile(r"^drm-pdev:\s+([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f])\s*$", re.MULTILINE)
_CLIENT: Final = re.compile(r"^drm-client-id:\s+(\d{1,19})\s*$", re.MULTILINE)


def parse_fdinfo(text: str) -> tuple[str, str, int] | None:
    """Read /proc/PID/fdinfo/FD: the card's place on the bus, the client, bytes it holds there; None for other files.

    amdgpu says `drm-memory-vram`, i915 `drm-resident-local0`, xe `drm-resident-vram0`: what is resident counts where it is
    told. (Linux: Documentation/gpu/drm-usage-stats.rst)
    """
    place = _PLACE.search(text)
    if not place:
        return None
    client = _CLIENT.search(text)
    sizes = [(bool(kind), int(n) * _UNITS[unit]) for kind, n, unit in _LINE.findall(text)]
    resident = [n for is_resident, n in sizes if is_resident]
    return place[1], client[1] if client else "", max(resident or [n for _, n in sizes], default=0)


def users_by_bus(here: Here) -> dict[str, tuple[User, ...]]:
    """List who holds memory of which card, most first; programs of other users are not seen without the right to."""
    held: dict[str, dict[str, int]] = {}
    known: set[tuple[str, str]] = set()
    for process in _folders(here.root / "proc"):
        for fd in _files(process / "fd"):
            found = parse_fdinfo(here.read(process / "fdinfo" / fd))
            if found is None or (found[1] and found[:2] in known):
                continue  # a file that a program shares with its children counts once
            known.add(found[:2])
            name = printable(here.read(process / "comm", 64).strip() or f"process {process.name}", 40)
            by_name = held.setdefault(found[0], {})
            by_name[name] = by_name.get(name, 0) + found[2]
    return {
        bus: tuple(User(name, n) for name, n in sorted(by_name.items(), key=lambda x: -x[1]) if n)
        for bus, by_name in held.items()
    }


def _folders(path: Path) -> list[Path]:
    try:
        return sorted((p for p in path.iterdir() if p.name.isdecimal()), key=lambda p: int(p.name))
    except OSError:
        return []


def _files(folder: Path) -> list[str]:
    """The open files of a process that are cards; few processes have one, so that the look is cheap."""
    found = []
    try:
        for fd in os.listdir(folder):
            target = os.readlink(folder / fd)
            if "/dev/dri/" in target:
                found.append(fd)
    except OSError:  # it ended, or is another user's
        return found
    return found
