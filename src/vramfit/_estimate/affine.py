"""Compute with affine numbers, at + i * slope: one run of integer code answers for many values of i at once.

In: a value at point 0 and what each further point adds. Out: `Line`s, which add and compare like ints. A
comparison answers for the point where the `Span` starts, and shortens the span to the points where the answer is the
same. So code that decides by comparisons alone does at all points of the span what it did at the first,
and what it comes to is a `Line` too.
"""

from __future__ import annotations

from typing import TypeAlias

__all__ = ["Line", "Number", "Span", "line"]


class Span:
    """A range of points, `first` to `last`, at which every comparison so far comes out as at the first."""

    __slots__ = ("first", "last")

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def end(self, room: int, step: int) -> None:
        """Shrink the span to the points where a margin of `room`, falling by `step` (above 0) per point, stays non-negative."""
        self.last = min(self.last, self.first + room // step)


class Line:
    """An affine number: `at` + i * `slope` at point i of `span`, with a slope that is not 0. Ints stand for slope 0."""

    __hash__ = None  # type: ignore[assignment]  # it equals what it equals at some points only
    __slots__ = ("at", "slope", "span")

    def __init__(self, at: int, slope: int, span: Span) -> None:
        self.at, self.slope, self.span = at, slope, span

    def __repr__(self) -> str:
        return f"Line({self.at}, {self.slope})"

    def __add__(self, other: Number) -> Number:
        if isinstance(other, Line):
            return line(self.at + other.at, self.slope + other.slope, self.span)
        return Line(self.at + other, self.slope, self.span)

    __radd__ = __add__

    def __neg__(self) -> Line:
        return Line(-self.at, -self.slope, self.span)

    def __sub__(self, other: Number) -> Number:
        return self + -other

    def __rsub__(self, other: int) -> Number:
        return -self + other

    def __floordiv__(self, other: int) -> int:
        """Divide, and shrink the span to the points where the quotient is the same."""
        block, within = divmod(self.at + self.slope * self.span.first, other)
        room = other - 1 - within if self.slope > 0 else within
        self.span.end(room, abs(self.slope))
        return block

    def __lt__(self, other: Number) -> bool:
        return _negative(self - other, self.span)

    def __gt__(self, other: Number) -> bool:
        return _negative(other - self, self.span)

    def __le__(self, other: Number) -> bool:
        return not self > other

    def __ge__(self, other: Number) -> bool:
        return not self < other

    def __eq__(self, other: object) -> bool:
        return _zero(self - other, self.span) if isinstance(other, Line | int) else NotImplemented

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __bool__(self) -> bool:
        return not _zero(self, self.span)


Number: TypeAlias = int | Line


def line(at: int, slope: int, span: Span) -> Number:
    """Make a `Line`, or an int where the slope is 0."""
    return Line(at, slope, span) if slope else at


def _negative(x: Number, span: Span) -> bool:
    if isinstance(x, int):
        return x < 0
    at, slope = x.at + x.slope * span.first, x.slope
    if at < 0 < slope:
        span.end(-1 - at, slope)
    elif at >= 0 > slope:
        span.end(at, -slope)
    return at < 0


def _zero(x: Number, span: Span) -> bool:
    if isinstance(x, int):
        return not x
    at, slope = x.at + x.slope * span.first, x.slope
    if not at:
        span.last = span.first
    elif (at < 0) != (slope < 0) and not at % slope:
        span.end(abs(at) - 1, abs(slope))
    return not at
