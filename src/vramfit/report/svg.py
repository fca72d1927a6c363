"""Small pictures as SVG text, for pages that need no library and no network.

Colours are Okabe and Ito's, which colour-blind people tell apart; they come from the page's style, where
dark mode has its own. Nothing is told by colour alone: parts have titles, points have shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

__all__ = ["Bar", "Point", "bars", "scatter"]

WIDTH: Final = 760
SHAPES: Final = ("circle", "square", "triangle", "diamond")


@dataclass(frozen=True, slots=True)
class Bar:
    """One stacked bar: parts as (name, class, size), and the size that they must not exceed."""

    name: str
    parts: tuple[tuple[str, str, int], ...]
    capacity: int
    note: str


@dataclass(frozen=True, slots=True)
class Point:
    """One mark: `group` chooses shape and colour."""

    x: float
    y: float
    group: int
    name: str
    marked: bool = False


def bars(rows: Sequence[Bar]) -> str:
    """Bars one under the other, to one scale, each with a line at its capacity."""
    left, height, top = 190, 26, 6
    step = height + 22
    most = max([1, *(max(b.capacity, sum(p[2] for p in b.parts)) for b in rows)])
    scale = (WIDTH - left - 12) / most
    parts = []
    for i, bar in enumerate(rows):
        y, x = top + i * step, float(left)
        parts.append(f'<text x="{left - 8}" y="{y + 17}" text-anchor="end">{escape(bar.name)}</text>')
        for name, kind, size in bar.parts:
            title = f"<title>{escape(name)}</title>"
            parts.append(
                f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{size * scale:.1f}" height="{height}">{title}</rect>'
            )
            x += size * scale
        if bar.capacity:
            at = left + bar.capacity * scale
            parts.append(
                f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="{y - 4}" y2="{y + height + 4}"/>'
            )
        parts.append(f'<text class="small" x="{left}" y="{y + height + 13}">{escape(bar.note)}</text>')
    return _svg(parts, top + len(rows) * step, "Memory by device")


def scatter(points: Sequence[Point], x_name: str, y_name: str, groups: Sequence[str]) -> str:
    """Points with ringed marks, axes from zero, and a legend of the groups."""
    left, right, top, bottom, height = 84, 16, 30, 44, 380
    x_most, y_most = (max([1.0, *(getattr(p, axis) for p in points)]) * 1.06 for axis in "xy")
    w, h = WIDTH - left - right, height - top - bottom

    def at(p: Point) -> tuple[float, float]:
        return left + p.x / x_most * w, top + h - p.y / y_most * h

    parts = [f'<path class="axis" d="M{left} {top}V{top + h}H{left + w}"/>']
    for tick in _ticks(x_most):
        x = left + tick / x_most * w
        parts.append(
            f'<text class="small" x="{x:.1f}" y="{top + h + 16}" text-anchor="middle">{tick:,g}</text>'
        )
    for tick in _ticks(y_most):
        y = top + h - tick / y_most * h
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{left + w}"/>')
        parts.append(
            f'<text class="small" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:,.0f}</text>'
        )
    for i, name in enumerate(groups):
        parts += [
            _mark(left + 10 + i * 130, 12, i, ""),
            f'<text x="{left + 20 + i * 130}" y="16">{escape(name)}</text>',
        ]
    for p in sorted(points, key=lambda p: p.marked):
        x, y = at(p)
        if p.marked:
            parts.append(f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="9"/>')
        parts.append(_mark(x, y, p.group, p.name))
    parts.append(f'<text x="{left + w / 2}" y="{height - 8}" text-anchor="middle">{escape(x_name)}</text>')
    parts.append(
        f'<text transform="rotate(-90 14 {top + h / 2})" x="14" y="{top + h / 2}" text-anchor="middle">{escape(y_name)}</text>'
    )
    return _svg(parts, height, f"{y_name} against {x_name}")


def _mark(x: float, y: float, group: int, name: str) -> str:
    title = f"<title>{escape(name)}</title>" if name else ""
    kind, shape = f"g{group % len(SHAPES)}", SHAPES[group % len(SHAPES)]
    if shape == "circle":
        return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5">{title}</circle>'
    paths = {
        "square": f"M{x - 4.5:.1f} {y - 4.5:.1f}h9v9h-9z",
        "triangle": f"M{x:.1f} {y - 6:.1f}l5.5 10h-11z",
        "diamond": f"M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z",
    }
    return f'<path class="{kind}" d="{paths[shape]}">{title}</path>'


def _ticks(most: float) -> list[float]:
    """Four to nine round numbers from 0 to `most`."""
    step = 10.0 ** (len(str(int(most))) - 1)
    while most / step < 4:
        step /= 2
    return [i * step for i in range(int(most / step) + 1)]


def _svg(parts: Sequence[str], height: float, name: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(name)}">{"".join(parts)}</svg>'
