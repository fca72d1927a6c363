"""Runs of equal layers are cut short, and nothing else is."""

from __future__ import annotations

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st
from small import dense

from vramfit._estimate.layer_runs import MAX_PERIOD, Collapsed, collapse, layer_kinds

KINDS = st.lists(st.integers(0, 2), max_size=60)
REPEATS = 3  # of a run that are kept before a gap, unless told otherwise


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


@given(
    st.integers(REPEATS + 3, 30), st.lists(st.integers(0, 5), min_size=1, max_size=MAX_PERIOD, unique=True)
)
def test_longer_runs_look_the_same(count: int, pattern: list[int]) -> None:
    """A pattern repeated more often than needed collapses to what it was with two repeats less."""
    assert shown(pattern * (count + 2)) == shown(pattern * count)
    assert len(shown(pattern * count)) < len(pattern * count)


@given(st.lists(st.integers(), unique=True, max_size=30))
def test_without_repeats_nothing_is_cut(kinds: list[int]) -> None:
    """Layers that all differ are all kept."""
    assert shown(kinds) == kinds
    assert not collapse(kinds).cuts


@given(KINDS, st.integers(2, 4))
def test_the_cuts_tell_what_was_dropped(kinds: list[int], repeats: int) -> None:
    """Repeating what stands before each gap, runs of single layers first, gives all layers again."""
    found = collapse(kinds, repeats)
    assert unfolded(kinds, found) == kinds
    assert all(c.dropped * (c.end - c.second) % 2 == 0 for c in found.cuts)


def unfolded(kinds: list[int], found: Collapsed) -> list[int]:
    each = [[kinds[i]] for i in found.kept]
    for cut in sorted(found.cuts, key=lambda c: c.end - c.second):
        before, last = each[cut.first : cut.second], each[cut.second : cut.end]
        assert before == last
        each[cut.end - 1] = each[cut.end - 1] + list(chain.from_iterable(last)) * cut.dropped
    return list(chain.from_iterable(each))


@given(KINDS)
def test_a_repeat_follows_each_gap(kinds: list[int]) -> None:
    """What stood behind a dropped layer stands there still: a layer like the first of the pattern."""
    found = collapse(kinds)
    for cut in found.cuts:
        assert kinds[found.kept[cut.end]] == kinds[found.kept[cut.second]]
