"""Runs of equal layers are cut short, and nothing else is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from small import dense

from vramfit.collapse import MAX_PERIOD, REPEATS, collapse, layer_kinds

KINDS = st.lists(st.integers(0, 2), max_size=60)


def test_equal_layers_share_a_number() -> None:
    """Layers that differ in a window, a shape or where a weight lies are different kinds."""
    model = dense(4, window=512, swa_layers=2)
    nowhere = [False] * len(model.weights)
    assert layer_kinds(model, nowhere) == (0, 0, 1, 1)
    moved = [w.tensor.name == "blk.3.ffn_up.weight" for w in model.weights]
    assert layer_kinds(model, moved) == (0, 0, 1, 2)


@given(KINDS)
def test_kept_layers_are_some_of_them_in_order(kinds: list[int]) -> None:
    """What is kept is a strictly increasing choice of indexes, with the first and the last layer."""
    kept = collapse(kinds).kept
    assert list(kept) == sorted(set(kept))
    assert not kinds or (kept[0] == 0 and kept[-1] == len(kinds) - 1)


def shown(kinds: list[int]) -> list[int]:
    return [kinds[i] for i in collapse(kinds).kept]


@given(st.integers(REPEATS, 30), st.lists(st.integers(0, 5), min_size=1, max_size=MAX_PERIOD))
def test_longer_runs_look_the_same(count: int, pattern: list[int]) -> None:
    """A pattern repeated more often than needed collapses to what it was with two repeats less."""
    assert shown(pattern * (count + 2)) == shown(pattern * count)


@given(st.lists(st.integers(), unique=True, max_size=30))
def test_without_repeats_nothing_is_cut(kinds: list[int]) -> None:
    """Layers that all differ are all kept."""
    assert shown(kinds) == kinds
    assert not collapse(kinds).cuts


@given(KINDS)
def test_cuts_name_two_equal_neighbours(kinds: list[int]) -> None:
    """Where repeats were dropped, the two named before the gap are equal and stand next to each other."""
    found = collapse(kinds)
    assert bool(found.cuts) == (len(found.kept) < len(kinds))
    for a, b, c in found.cuts:
        first, second = ([kinds[found.kept[i]] for i in range(x, y)] for x, y in ((a, b), (b, c)))
        assert first == second
