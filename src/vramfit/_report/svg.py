"""Draw small pictures as SVG text, for pages that need no library and no network.

Colours are Okabe and Ito's, which colour-blind people tell apart; they come from the page's style, where
dark mode has its own. Nothing is told by colour alone: parts have titles, points have shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .._base.foreign import html_text

__all__ = ["Point", "mark", "scatter"]

WIDTH: Final = 600
SHAPES: Final = ("circle", "square", "triangle", "diamond")


@dataclass(frozen=True, slots=True)
class Point:
    """One mark: `group` chooses shape and colour."""

    x: float
    y: float
    group: int
    name: str
    marked: bool = False


def scatter(points: Sequence[Point], x_name: str, y_name: str) -> str:
    """Draw points, those marked with a ring, between axes from zero."""
    left, right, top, bottom, height = 92, 16, 12, 52, 380
    x_most, y_most = (max([1.0, *(getattr(p, axis) for p in points)]) * 1.06 for axis in "xy")
    w, h = WIDTH - left - right, height - top - bottom

    def at(p: Point) -> tuple[float, float]:
        return left + p.x / x_most * w, top + h - p.y / y_most * h

    parts = [f'<path class="axis" d="M{left} {top}V{top + h}H{left + w}"/>']
    for tick in _ticks(x_most):
        x = left + tick / x_most * w
        parts.append(
            f'<text class="small" x="{x:.1f}" y="{top + h + 18}" text-anchor="middle">{tick:,g}</text>'
        )
    for tick in _ticks(y_most):
        y = top + h - tick / y_most * h
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{left + w}"/>')
        parts.append(
            f'<text class="small" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:,.0f}</text>'
        )
    for p in sorted(points, key=lambda p: p.marked):
        x, y = at(p)
        if p.marked:
            parts.append(f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="9"/>')
        parts.append(mark(x, y, p.group, p.name))
    parts.append(f'<text x="{left + w / 2}" y="{height - 8}" text-anchor="middle">{html_text(x_name)}</text>')
    parts.append(
        f'<text transform="rotate(-90 14 {top + h / 2})" x="14" y="{top + h / 2}" text-anchor="middle">{html_text(y_name)}</text>'
    )
    return _svg(parts, height, f"{y_name} against {x_name}")


def mark(x: float, y: float, group: int, name: str) -> str:
    """Draw the shape of a group, in its colour; `name` is shown under the pointer."""
    title = f"<title>{html_text(name)}</title>" if name else ""
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
    """Choose four to nine round numbers from 0 to `most`."""
    step = 10.0 ** (len(str(int(most))) - 1)
    while most / step < 4:
        step /= 2
    return [i * step for i in range(int(most / step) + 1)]


def _svg(parts: Sequence[str], height: float, name: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{html_text(name)}">{"".join(parts)}</svg>'
