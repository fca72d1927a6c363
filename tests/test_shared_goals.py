"""The furthest goal over tables of sizes: what is found is the last that fits, whatever the buffers do in between."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, cast

from conftest import examples
from hypothesis import given
from hypothesis import strategies as st

from vramfit._planner.shared.divided import divide
from vramfit._planner.shared.goals import Goals, furthest, goals
from vramfit._planner.shared.packing import Packing, groups
from vramfit._planner.shared.spots import Bound, Divided, Option, Spot, fewest


@dataclass
class Tables:
    """One place, whose size at each goal is in a table that may fall; floors below it never do."""

    sizes: list[int]
    floors: list[int]
    guesses: list[int]
    room: int
    stuck: bool = False
    known: dict[int, int] = field(default_factory=dict)
    least: dict[int, int] = field(default_factory=dict)
    replays: int = 0
    incomplete: bool = False
    tried: set[int] = field(default_factory=set)

    def find(self, contexts: tuple[int, ...], bound: Bound) -> str | None:
        at = contexts[0]
        size = max((n for i, n in self.least.items() if i <= at), default=0)
        if bound is Bound.PROBABLY:
            size = self.guesses[at]
        elif bound is Bound.AT_LEAST and at in self.known and not self.stuck:
            size = self.known[at]
        return "place" if size <= self.room else None

    def fits(self, place: str, contexts: tuple[int, ...]) -> bool:
        self.replays += 1
        self.known[contexts[0]] = self.sizes[contexts[0]]
        return self.sizes[contexts[0]] <= self.room

    def has_floors(self, place: str, contexts: tuple[int, ...]) -> bool:
        return contexts[0] in self.least

    def learn_floors(self, place: str, contexts: tuple[int, ...]) -> None:
        self.least[contexts[0]] = self.floors[contexts[0]]

    def is_stuck(self, place: str, contexts: tuple[int, ...]) -> bool:
        stuck = contexts[0] in self.tried
        self.incomplete |= stuck
        self.tried.add(contexts[0])
        return stuck


@examples(120)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30), st.integers(-9, 9)), min_size=1, max_size=40),
    st.integers(0, 200),
    st.booleans(),
)
def test_the_last_goal_that_fits_is_found(rows: list[tuple[int, int, int]], room: int, stuck: bool) -> None:
    """Floors grow by the first numbers, sizes are above them by the second, guesses off by the third."""
    floors = list(accumulate(grown for grown, _, _ in rows))
    sizes = [floor + more for floor, (_, more, _) in zip(floors, rows, strict=True)]
    guesses = [size + off for size, (_, _, off) in zip(sizes, rows, strict=True)]
    tables = Tables(sizes, floors, guesses, room, stuck)
    row = Goals(len(rows), lambda i: (i,), lambda _: 0)
    found, place = furthest(cast(Packing, tables), row, -1, None)
    assert found == max((i for i, size in enumerate(sizes) if size <= room), default=-1)
    assert (place is None) == (found < 0)


@given(
    st.lists(st.integers(1, 8), min_size=1, max_size=3),
    st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=3, max_size=3),
)
def test_each_goal_raises_the_model_with_the_smallest_share(lengths: list[int], weights: list[float]) -> None:
    """One step of one model at a time, until all have what they wish; ties go to the model named first."""
    candidates = [range(256, 256 * n + 1, 256) for n in lengths]
    worth = [own[-1] * weight for own, weight in zip(candidates, weights, strict=False)]
    growing = range(len(lengths))
    row = goals(tuple(own[0] for own in candidates), candidates, worth, growing)
    assert row.length == 1 + sum(n - 1 for n in lengths)
    assert row.at(row.length - 1) == tuple(own[-1] for own in candidates)
    for i in range(1, row.length):
        before, after = row.at(i - 1), row.at(i)
        (raised,) = [m for m in growing if after[m] != before[m]]
        assert raised == row.raised(i)
        assert after[raised] == before[raised] + 256
        open_ = [m for m in growing if before[m] < candidates[m][-1]]
        assert raised == min(open_, key=lambda m: (before[m] / worth[m], m))


SIZES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=6)


@examples(120)
@given(st.lists(SIZES, min_size=2, max_size=3), st.tuples(*[st.integers(0, 14)] * 3))
def test_a_choice_of_splits_is_found_where_there_is_one(
    models: list[list[tuple[int, int]]], rooms: tuple[int, int, int]
) -> None:
    """As trying every combination does, over cards that all or some of the models share."""
    cards = [(0, 1), (1, 2), (0, 2)]
    own = [
        Divided(cards[i], [Option(sizes, (i, at)) for at, sizes in enumerate(options)])
        for i, options in enumerate(models)
    ]
    found, work = divide(rooms, own)

    def holds(chosen: list[tuple[int, int]]) -> bool:
        taken = [0, 0, 0]
        used = [False] * 3
        for i, sizes in enumerate(chosen):
            for card, size in zip(cards[i], sizes, strict=True):
                taken[card] += size
                used[card] |= size > 0
        return all(t <= r or not u for t, r, u in zip(taken, rooms, used, strict=True))

    every: list[list[tuple[int, int]]] = [[]]
    for options in models:
        every = [[*before, sizes] for before in every for sizes in options]
    assert (found is not None) == any(map(holds, every))
    assert work > 0
    if found is not None:
        assert holds([models[i][split[1]] for i, split in enumerate(found)])


@given(SIZES)
def test_what_is_left_out_is_no_better(options: list[tuple[int, int]]) -> None:
    """For each option one that stays takes no more of either card."""
    kept = fewest([Option(sizes, (i,)) for i, sizes in enumerate(options)])
    for sizes in options:
        assert any(all(a <= b for a, b in zip(o.sizes, sizes, strict=True)) for o in kept)
    assert [o.sizes for o in kept] == sorted({o.sizes for o in kept})


def test_sets_of_cards_are_grouped_by_what_they_share() -> None:
    """A chain of sets is one group."""

    def spot(*cards: int) -> Any:
        return Spot(cards, cast(Any, None))

    assert groups([]) == []
    assert groups([spot(0, 1), spot(2, 3)]) == [[0], [1]]
    (chain,) = groups([spot(0, 1), spot(2, 3), spot(1, 2)])
    assert sorted(chain) == [0, 1, 2]
