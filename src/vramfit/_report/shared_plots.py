"""Draw the memory of several models as a matplotlib picture: a bar for each device, by model and then by term.

Hues, numbers and shades are those of the page (`stacks`, `style`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .._base.units import GIB
from .._planner.shared import SharedPlan
from .._planner.shared.nouns import SharedDevice
from .bars import BESIDE, BESIDE_SAID
from .plans import is_short
from .shared_facts import PROCESSES, names, on_devices, terms
from .style import DARK_MODELS, LIGHT_MODELS

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

    from .palette import Palette

__all__ = ["draw_devices", "drawn_devices"]

# A term's shade: what is mixed into the model's hue, how much of it, and the pattern on it.
SHADES: Final = {
    "weights": ("#ffffff", 0.0, ""),
    "context": ("#ffffff", 0.53, ""),
    "compute": ("#000000", 0.47, ""),
    "company": ("#ffffff", 0.2, "///"),
    BESIDE: ("#ffffff", 0.2, "..."),
}
DASHES: Final = (0, (2, 1))
NUMBER: Final = 0.03  # part of the picture's width that holds a number


def drawn_devices(plan: SharedPlan) -> list[tuple[int, SharedDevice]]:
    """List the devices that a picture shows, with their index: those used, and those that could be."""
    return [(i, d) for i, d in enumerate(plan.devices) if d.total or d.free_bytes]


def draw_devices(plan: SharedPlan, axes: Axes, look: Palette, label: Callable[[str], str]) -> list[Any]:
    """Draw the bars of all devices, and return what its legend shows; `label` escapes names."""
    devices, hues = drawn_devices(plan), DARK_MODELS if look.is_dark else LIGHT_MODELS
    most = max(max(d.free_bytes, d.total) for _, d in devices) / GIB
    for y, (at, device) in enumerate(devices):
        start = 0.0
        for t in plan.loaded:
            first = start
            for term, n_bytes in terms(dict(on_devices(plan, t))[at]) if device.taken[t] else ():
                style = {"edgecolor": look.paper, "linewidth": 0.6, **_shade(hues[t], term)}
                axes.barh(y, n_bytes / GIB, left=start, height=0.6, **style)
                start += n_bytes / GIB
            if start - first > NUMBER * most:
                axes.text((first + start) / 2, y, str(t + 1), ha="center", va="center", color="#ffffff",
                          fontsize=9, bbox={"boxstyle": "round,pad=0.2", "fc": "#000000b0", "ec": "none"})  # fmt: skip
        if device.processes:
            axes.barh(y, device.processes / GIB, left=start, height=0.6, **_processes(look))
        _limits(axes, y, device, plan.margin_bytes, look)
    axes.set(xlabel="GiB", xlim=(0, most * 1.03), title="Memory by model, then by term")
    axes.set_yticks(range(len(devices)), [label(d.name) for _, d in devices])
    axes.invert_yaxis()
    return _keys(plan, hues, look, label)


def _shade(hue: str, term: str) -> dict[str, Any]:
    from matplotlib.colors import to_rgb

    other, share, hatch = SHADES[term]
    color = tuple(a * (1 - share) + b * share for a, b in zip(to_rgb(hue), to_rgb(other), strict=True))
    return {"facecolor": color, "hatch": hatch}


def _processes(look: Palette) -> dict[str, Any]:
    return {"facecolor": look.paper, "edgecolor": look.ink, "hatch": "|||", "linewidth": 0.6}


def _limits(axes: Axes, y: int, device: SharedDevice, margin: int, look: Palette) -> None:
    """Mark the end of free memory, the margin before it, and what reaches into that."""
    if not device.free_bytes:
        return
    free, room = device.free_bytes / GIB, max(0, device.free_bytes - margin) / GIB
    axes.vlines(free, y - 0.4, y + 0.4, color=look.limit, linewidth=2)
    if margin:
        axes.vlines(room, y - 0.4, y + 0.4, color=look.limit, linestyle=DASHES, linewidth=2)
    if is_short(device, margin):
        axes.barh(
            y, device.total / GIB - room, left=room, height=0.6, fill=False, hatch="xxx", edgecolor=look.limit
        )


def _keys(plan: SharedPlan, hues: tuple[str, ...], look: Palette, label: Callable[[str], str]) -> list[Any]:
    """Say which model has which number and hue, which term which shade, and what the lines are."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    called = names(plan)
    keys: list[Any] = [Patch(facecolor=hues[t], label=f"{t + 1} {label(called[t])}") for t in plan.loaded]
    found = {term for t in plan.loaded for _, device in on_devices(plan, t) for term, _ in terms(device)}
    keys += [
        Patch(edgecolor=look.paper, label=BESIDE_SAID if term == BESIDE else term, **_shade("#808080", term))
        for term in SHADES
        if term in found
    ]
    if any(plan.processes):
        keys.append(Patch(label=PROCESSES, **_processes(look)))
    line: dict[str, Any] = {"color": look.limit, "linewidth": 2}
    keys.append(Line2D([], [], label="free memory", **line))
    if plan.margin_bytes:
        keys.append(Line2D([], [], label="less the margin", linestyle=DASHES, **line))
    return keys
