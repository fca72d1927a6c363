"""Draw memory as bars, in HTML alone: as wide as there is room, with words as large as all others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from .._base.foreign import html_text
from .._base.units import format_bytes
from .._estimate.estimate import DeviceEstimate
from .plans import is_short

if TYPE_CHECKING:
    from .._planner.shared.nouns import SharedDevice

    Device: TypeAlias = DeviceEstimate | SharedDevice

__all__ = ["BESIDE", "BESIDE_SAID", "TERMS", "bars", "drawn", "keys", "limit_keys", "part"]

TERMS: Final = (("weights", "model"), ("context", "context"), ("compute", "compute"), ("company", "company"))
BESIDE: Final = "other"  # what counts against a memory beside its own terms
BESIDE_SAID: Final = "the host's, or locked"


def bars(devices: Sequence[DeviceEstimate], margin: int) -> str:
    """Draw a bar for each device, to one scale: its terms, its free memory, the margin, and what reaches into it."""
    shown = [d for d in devices if d.total or d.free_bytes]
    most = max((max(d.free_bytes, d.total + max(0, d.beside)) for d in shown), default=0)
    return "".join(_device(d, margin, most) for d in shown) + (_key(shown, margin) if shown else "")


def _device(device: DeviceEstimate, margin: int, most: int) -> str:
    parts, at = [], 0
    for name, field in TERMS:
        size = getattr(device, field)
        if size:
            parts.append(part(name, f"{name} {format_bytes(size)}", at, size, most))
        at += size
    if device.beside > 0:
        parts.append(part(BESIDE, f"{BESIDE_SAID}, {format_bytes(device.beside)}", at, device.beside, most))
    return drawn(device, parts, margin, most)


def drawn(device: Device, parts: Sequence[str], margin: int, most: int, parts_said: str = "") -> str:
    """Draw the bar of a device: its free memory, `parts` in it, the margin, and what reaches into that; words for who cannot see it."""
    said = _said(device)
    free = [part("free", "free memory", 0, device.free_bytes, most)] if device.free_bytes else []
    bar = "".join([*free, *parts, *_limits(device, margin, most)])
    named = f'<div class="bar" role="img" aria-label="{html_text(f"{device.name}: {said}{parts_said}")}">{bar}</div>'
    words = f'<p><span>{html_text(device.name)}</span><span class="note">{html_text(said)}</span></p>'
    return f'<div class="device">{words}{named}</div>'


def _limits(device: Device, margin: int, most: int) -> Iterator[str]:
    """Mark the end of free memory, the margin before it, and what is beyond that."""
    if not device.free_bytes:
        return
    room = max(0, device.free_bytes - margin)
    if is_short(device, margin):
        over = device.free_bytes - device.left - room
        yield part("over", f"{format_bytes(over)} too much", room, over, most)
    if margin:
        yield part("margin", f"{format_bytes(margin)} to be left", room, None, most)
    yield part("cap", f"{format_bytes(device.free_bytes)} free", device.free_bytes, None, most)


def _said(device: Device) -> str:
    """Put a bar in words."""
    if not device.free_bytes:
        return f"{format_bytes(device.total)} used"
    left = (
        f"{format_bytes(device.left)} left" if device.left >= 0 else f"{format_bytes(-device.left)} beyond it"
    )
    return (
        f"{format_bytes(device.free_bytes - device.left)} of {format_bytes(device.free_bytes)} free, {left}"
    )


def part(kind: str, title: str, start: int, size: int | None, most: int) -> str:
    """Draw a part of a bar, in percent of the longest; a line where it has no size."""
    width = "" if size is None else f";width:{min(size, most - start) / most:.3%}"
    return f'<span class="{kind}" title="{html_text(title)}" style="left:{start / most:.3%}{width}"></span>'


def _key(devices: Sequence[DeviceEstimate], margin: int) -> str:
    found = [(name, name) for name, field in TERMS if field != "company" or any(d.company for d in devices)]
    found += [(BESIDE, BESIDE_SAID)] if any(d.beside > 0 for d in devices) else []
    return keys([*found, *limit_keys(devices, margin)])


def limit_keys(devices: Sequence[Device], margin: int) -> list[tuple[str, str]]:
    """List the marks that bars have beside their parts, and what they are."""
    found = []
    if any(d.free_bytes for d in devices):
        found.append(("cap", "free memory"))
        found += [("margin", "less the margin")] if margin else []
    found += [("over", "too much")] if any(d.free_bytes and is_short(d, margin) for d in devices) else []
    return found


def keys(found: Sequence[tuple[str, str]]) -> str:
    """Write what parts of bars look like, and what they are."""
    marks = (
        f'<span class="key"><span class="{kind}"></span>{html_text(name)}</span>' for kind, name in found
    )
    return f'<p class="note">{"".join(marks)}</p>'
