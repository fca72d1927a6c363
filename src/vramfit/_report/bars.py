"""Draw memory as bars, in HTML alone: as wide as there is room, with words as large as all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .._base.foreign import html_text
from .._base.units import format_bytes
from .._estimate.estimate import DeviceEstimate
from .plans import is_short

__all__ = ["bars"]

TERMS: Final = (("weights", "model"), ("context", "context"), ("compute", "compute"), ("company", "company"))
BESIDE: Final = "other"  # what counts against a memory beside its own terms


def bars(devices: Sequence[DeviceEstimate], margin: int) -> str:
    """Draw a bar for each device, to one scale: its terms, its free memory, the margin, and what reaches into it."""
    shown = [d for d in devices if d.total or d.free_bytes]
    most = max((max(d.free_bytes, d.total + max(0, d.beside)) for d in shown), default=0)
    return "".join(_device(d, margin, most) for d in shown) + (_key(shown, margin) if shown else "")


def _device(device: DeviceEstimate, margin: int, most: int) -> str:
    said = _said(device)
    parts, at = [], 0
    if device.free_bytes:
        parts.append(_part("free", "free memory", 0, device.free_bytes, most))
    for name, field in TERMS:
        size = getattr(device, field)
        if size:
            parts.append(_part(name, f"{name} {format_bytes(size)}", at, size, most))
        at += size
    if device.beside > 0:
        parts.append(
            _part(BESIDE, f"the host's, or locked, {format_bytes(device.beside)}", at, device.beside, most)
        )
    if device.free_bytes:
        room = max(0, device.free_bytes - margin)
        if is_short(device, margin):
            over = device.free_bytes - device.left - room
            parts.append(_part("over", f"{format_bytes(over)} too much", room, over, most))
        if margin:
            parts.append(_part("margin", f"{format_bytes(margin)} to be left", room, None, most))
        parts.append(_part("cap", f"{format_bytes(device.free_bytes)} free", device.free_bytes, None, most))
    bar = f'<div class="bar" role="img" aria-label="{html_text(f"{device.name}: {said}")}">{"".join(parts)}</div>'
    words = f'<p><span>{html_text(device.name)}</span><span class="note">{html_text(said)}</span></p>'
    return f'<div class="device">{words}{bar}</div>'


def _said(device: DeviceEstimate) -> str:
    """Put a bar in words."""
    if not device.free_bytes:
        return f"{format_bytes(device.total)} used"
    left = (
        f"{format_bytes(device.left)} left" if device.left >= 0 else f"{format_bytes(-device.left)} beyond it"
    )
    return (
        f"{format_bytes(device.free_bytes - device.left)} of {format_bytes(device.free_bytes)} free, {left}"
    )


def _part(kind: str, title: str, start: int, size: int | None, most: int) -> str:
    """Draw a part of a bar, in percent of the longest; a line where it has no size."""
    width = "" if size is None else f";width:{min(size, most - start) / most:.3%}"
    return f'<span class="{kind}" title="{html_text(title)}" style="left:{start / most:.3%}{width}"></span>'


def _key(devices: Sequence[DeviceEstimate], margin: int) -> str:
    found = [(name, name) for name, field in TERMS if field != "company" or any(d.company for d in devices)]
    found += [(BESIDE, "the host's, or locked")] if any(d.beside > 0 for d in devices) else []
    if any(d.free_bytes for d in devices):
        found.append(("cap", "free memory"))
        found += [("margin", "less the margin")] if margin else []
    found += [("over", "too much")] if any(d.free_bytes and is_short(d, margin) for d in devices) else []
    keys = (f'<span class="key"><span class="{kind}"></span>{name}</span>' for kind, name in found)
    return f'<p class="note">{"".join(keys)}</p>'
