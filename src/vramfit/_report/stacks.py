"""Draw the memory of several models as bars, in HTML alone: on each device by model, then by term.

A model has a hue and a number, which stands in its part of a bar and in the legend; a term has a shade of that hue.
"""

from __future__ import annotations

from .._base.foreign import html_text
from .._base.units import format_bytes
from .._planner.shared import SharedPlan
from .._planner.shared.nouns import SharedDevice
from .bars import BESIDE, BESIDE_SAID, TERMS, drawn, keys, limit_keys, part
from .shared_facts import PROCESSES, names, on_devices, terms

__all__ = ["stacked_bars"]


def stacked_bars(plan: SharedPlan) -> str:
    """Draw a bar for each device, to one scale: what each model takes by term, further processes, and as `bars` what is free."""
    devices = [(i, d) for i, d in enumerate(plan.devices) if d.total or d.free_bytes]
    most = max((max(d.free_bytes, d.total) for _, d in devices), default=0)
    if not most:
        return ""
    return "".join(_bar(plan, i, d, most) for i, d in devices) + _keys(plan)


def _bar(plan: SharedPlan, at: int, device: SharedDevice, most: int) -> str:
    parts, tags, words, start = list[str](), list[str](), list[str](), 0
    for t, name in enumerate(names(plan)):
        first = start
        for term, n_bytes in terms(dict(on_devices(plan, t))[at]) if device.taken[t] else ():
            what = BESIDE_SAID if term == BESIDE else term
            kind = f"in m{t} in-{term}"
            parts.append(part(kind, f"{name}: {what} {format_bytes(n_bytes)}", start, n_bytes, most))
            start += n_bytes
        if start > first:
            tags.append(_tag(t, first / most, (start - first) / most))
            words.append(f"; {name} {format_bytes(start - first)}")
    if device.processes:
        said = f"{PROCESSES} {format_bytes(device.processes)}"
        parts.append(part("processes", said, start, device.processes, most))
        words.append(f"; {said}")
    return drawn(device, [*parts, *tags], plan.margin_bytes, most, "".join(words))


def _tag(tenant: int, start: float, width: float) -> str:
    return f'<span class="tag" style="left:{start:.3%};width:{width:.3%}"><b>{tenant + 1}</b></span>'


def _keys(plan: SharedPlan) -> str:
    """Say which model has which number and hue, which term which shade, and what else is drawn."""
    models = "".join(
        f'<span class="key"><span class="m{t}"></span><span class="tag"><b>{t + 1}</b></span>{html_text(name)}</span>'
        for t, name in enumerate(names(plan))
        if t in plan.loaded
    )
    found = {term for t in plan.loaded for _, device in on_devices(plan, t) for term, _ in terms(device)}
    shades = [(f"any in-{name}", name) for name, _ in TERMS if name in found]
    shades += [(f"any in-{BESIDE}", BESIDE_SAID)] if BESIDE in found else []
    shades += [("processes", PROCESSES)] if any(d.processes for d in plan.devices) else []
    return (
        f'<p class="note models">{models}</p>{keys([*shades, *limit_keys(plan.devices, plan.margin_bytes)])}'
    )
