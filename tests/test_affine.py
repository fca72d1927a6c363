"""Code that compares and adds `Line`s does, at each point of the span, what it does with ints."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramfit._estimate.affine import Line, Number, Span, line

NUMBERS = st.lists(st.tuples(st.integers(-50, 50), st.integers(-5, 5)), min_size=3, max_size=6)
REACH = 12


def best_fit(sizes: list[Number], need: Number) -> tuple[int, Number]:
    """Decisions of the kind that allocators make: the smallest that is large enough, what it leaves."""
    best = -1
    for i, size in enumerate(sizes):
        if size >= need and (best < 0 or size < sizes[best]):
            best = i
    if best < 0:
        return -1, max(sizes) + 3
    if sizes[best] == need:
        return best, 0
    return best, sizes[best] - need


@given(NUMBERS, st.integers(0, REACH))
def test_a_span_ends_where_a_decision_changes(numbers: list[tuple[int, int]], first: int) -> None:
    """From the first point to the last that is left, choice and outcome are those of ints."""
    span = Span(first, REACH)
    need, *sizes = (line(at, slope, span) for at, slope in numbers)
    choice, rest = best_fit(sizes, need)
    assert first <= span.last <= REACH
    for i in range(first, span.last + 1):
        wanted, *there = (at + slope * i for at, slope in numbers)
        found = rest.at + rest.slope * i if isinstance(rest, Line) else rest
        assert best_fit(list(there), wanted) == (choice, found)


OPERATIONS: list[Callable[[Number, Number], Number]] = [
    lambda x, y: x + y,
    lambda x, y: x - y,
    lambda x, y: y - x,
    lambda x, y: x // 7,
    lambda x, y: x < y,
    lambda x, y: x <= y,
    lambda x, y: x > y,
    lambda x, y: x >= y,
    lambda x, y: x == y,
    lambda x, y: x != y,
    lambda x, y: bool(x),
]


@pytest.mark.parametrize("does", OPERATIONS)
@given(
    x=st.tuples(st.integers(-60, 60), st.integers(-9, 9)),
    y=st.tuples(st.integers(-60, 60), st.integers(-9, 9)),
)
def test_an_operation_is_that_of_ints(
    does: Callable[[Number, Number], Number], x: tuple[int, int], y: tuple[int, int]
) -> None:
    """Every operator gives, at each point of what is left of the span, what it gives for ints."""
    span = Span(0, REACH)
    found = does(line(*x, span), line(*y, span))
    for i in range(span.last + 1):
        there = found.at + found.slope * i if isinstance(found, Line) else found
        assert does(x[0] + x[1] * i, y[0] + y[1] * i) == there


def test_lines_equal_no_other_things_and_have_no_hash() -> None:
    """A line is a number at each point, so it is no key, and nothing that is not a number equals it."""
    some = Line(1, 2, Span(0, 3))
    assert some != "1"
    assert repr(some) == "Line(1, 2)"
    with pytest.raises(TypeError):
        hash(some)
