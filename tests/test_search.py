"""The search over tables of sizes: what it finds is what trying every split at every context finds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from random import Random
from typing import cast

from conftest import examples
from hypothesis import given
from hypothesis import strategies as st

from vramfit._planner.search import Chains, Split, largest, last_where, least_short
from vramfit._planner.segments import Segments

STEP = 256
UNIT = 1 << 18  # bytes: a quarter of what shortfalls are told apart by
SEEDS = st.integers(0, 1 << 32)
Key = tuple[int, int, int, int]  # device, start, end, context


class Table:
    """Segments whose compute buffers are drawn by lot: they rise and fall with the context, floors only rise.

    `log` holds what was learned, in order; `extra` is what replays of whole splits say beyond their segments.
    """

    def __init__(self, seed: int, n_layer: int, n_cards: int, contexts: range) -> None:
        chance = Random(seed)
        self.first = chance.randint(0, 1)
        self.last = self.first + n_layer
        self.never_falls = chance.random() < 0.3
        self.contexts = contexts
        self._straight = chance.random() < 0.5
        self._weights = [chance.randint(0, 6) * UNIT for _ in range(self.last)]
        self._caches = [chance.randint(0, 2) * UNIT for _ in range(self.last)]
        self._sizes: dict[Key, int] = {}
        runs = [(a, b) for a in range(self.first, self.last + 1) for b in range(a + 1, self.last + 1)]
        for device, (start, end) in product(range(n_cards), runs):
            sizes = [chance.randint(0, 8) * UNIT for _ in contexts]
            for n_ctx, size in zip(contexts, sorted(sizes) if self.never_falls else sizes, strict=True):
                self._sizes[device, start, end, n_ctx] = size
        self._drawn = dict(self._sizes)  # what is known of them may be more
        self._guess = {key: max(0, size + chance.randint(-2, 2) * UNIT) for key, size in self._sizes.items()}
        self._known: set[Key] = set()
        self._floors: set[Key] = set()
        self.log: list[tuple[str, Split, int]] = []
        self.extra: dict[Split, int] = {}

    def fixed(self, device: int, start: int, end: int, n_ctx: int) -> int:
        caches = sum(self._caches[start:end]) * (1 + self.contexts.index(n_ctx))
        return sum(self._weights[start:end]) + caches if end > start else 0

    def size(self, device: int, start: int, end: int, n_ctx: int) -> int:
        return self._sizes.get((device, start, end, n_ctx), 0)

    def floor(self, device: int, start: int, end: int, n_ctx: int) -> int:
        known = [n for n in self.contexts if n <= n_ctx and (device, start, end, n) in self._floors]
        at_all = (self.size(device, start, end, n) for n in self.contexts if known and n >= known[-1])
        return min(at_all, default=0)

    def at_least(self, device: int, start: int, end: int, n_ctx: int) -> int:
        known = start == end or (device, start, end, n_ctx) in self._known
        return (self.size if known else self.floor)(device, start, end, n_ctx)

    def least(self, device: int, start: int, end: int, contexts: range) -> int:
        if all((device, start, end, n) in self._known for n in contexts):
            return min(self.size(device, start, end, n) for n in contexts)
        return self.floor(device, start, end, contexts[0])

    def probably(self, device: int, start: int, end: int, n_ctx: int) -> int:
        return self._guess.get((device, start, end, n_ctx), 0)

    def _of(self, split: Split, n_ctx: int) -> Iterator[Key]:
        start = self.first
        for device, count in enumerate(split):
            yield device, start, start + count, n_ctx
            start += count

    def total(self, split: Split, n_ctx: int) -> tuple[int, ...]:
        """What a replay of the whole split says."""
        return tuple(
            self.fixed(*key) + self._drawn[key] + self.extra.get(split, 0) if key[1] < key[2] else 0
            for key in self._of(split, n_ctx)
        )

    def learn(self, split: Split, n_ctx: int) -> tuple[int, ...]:
        self.log.append(("sizes", split, n_ctx))
        found = self.total(split, n_ctx)
        for key, size in zip(self._of(split, n_ctx), found, strict=True):
            self._known.add(key)
            if key in self._sizes:
                self._sizes[key] = max(self._sizes[key], size - self.fixed(*key))
            if self.never_falls:
                self._floors.add(key)
        return found

    def learn_floors(self, split: Split, n_ctx: int) -> None:
        self.log.append(("floors", split, n_ctx))
        self._floors |= set(self._of(split, n_ctx))

    def learn_lines(self, split: Split, contexts: range, n_ctx: int) -> bool:
        self.log.append(("lines", split, n_ctx))
        assert n_ctx in contexts
        if self._straight:
            self._known |= {key for n in contexts for key in self._of(split, n)}
        return self._straight

    def has_floors(self, split: Split, n_ctx: int) -> bool:
        return all(k[1] == k[2] or k in self._floors or k in self._known for k in self._of(split, n_ctx))

    def holds(self, split: Split, n_ctx: int, room: Sequence[int]) -> bool:
        keys = list(self._of(split, n_ctx))
        sizes = [self.fixed(*key) + self.size(*key) for key in keys]
        return all(k[1] == k[2] or k in self._known for k in keys) and fit(sizes, room)


def fit(sizes: Sequence[int], room: Sequence[int]) -> bool:
    return all(size <= free or not size for size, free in zip(sizes, room, strict=True))


def splits(layers: int, n: int) -> Iterator[Split]:
    for counts in product(range(layers + 1), repeat=n):
        if sum(counts) == layers:
            yield counts


def chains_of(seed: int, n_layer: int, n_cards: int, contexts: range) -> tuple[Table, Chains]:
    table = Table(seed, n_layer, n_cards, contexts)
    chance = Random(~seed)
    most = 2 * sum(table.total((n_layer, *[0] * (n_cards - 1)), contexts[-1])) // n_cards
    room = [chance.randint(-1, 1 + most // UNIT) * UNIT for _ in range(n_cards)]  # often no byte too much
    only = chance.choice([None, None, chance.choice(list(splits(n_layer, n_cards)))])
    return table, Chains(cast(Segments, table), room, only)


CASES = st.tuples(SEEDS, st.integers(1, 4), st.integers(1, 3), st.integers(1, 9))


@examples(120)
@given(CASES)
def test_the_largest_is_that_of_every_split_at_every_context(case: tuple[int, int, int, int]) -> None:
    """No context above the answer fits under any split, the answer does, and it was replayed as a whole."""
    seed, n_layer, n_cards, n_contexts = case
    contexts = range(STEP, STEP * (n_contexts + 1), STEP)
    table, chains = chains_of(seed, n_layer, n_cards, contexts)
    every = list(splits(n_layer, n_cards)) if chains.only is None else [chains.only]
    fitting = [n for n in contexts if any(fit(table.total(s, n), chains.room) for s in every)]
    found = largest(chains, contexts)
    assert (found[0] if found else None) == max(fitting, default=None)
    if found is not None:
        assert found[1] in every
        assert fit(table.total(found[1], found[0]), chains.room)
        assert ("sizes", found[1], found[0]) in table.log


@examples(40)
@given(CASES)
def test_the_least_shortfall_is_that_of_every_split(case: tuple[int, int, int, int]) -> None:
    """To a MiB, the worst card of the split found lacks no more than that of any other; no split is replayed twice."""
    seed, n_layer, n_cards, n_contexts = case
    contexts = range(STEP, STEP * (n_contexts + 1), STEP)
    table, chains = chains_of(seed, n_layer, n_cards, contexts)
    n_ctx = contexts[-1]

    def short(split: Split) -> int:
        lacking = zip(table.total(split, n_ctx), chains.room, strict=True)
        return max((size - free for size, free in lacking if size), default=0)

    best = least_short(Chains(chains.segments, chains.room), n_ctx)
    replayed = [split for what, split, _ in table.log if what == "sizes"]
    assert len(replayed) == len(set(replayed))
    assert sum(best) == n_layer
    assert max(0, short(best)) - max(0, min(map(short, splits(n_layer, n_cards)))) < 1 << 20


@examples(40)
@given(CASES)
def test_what_a_whole_split_takes_counts(case: tuple[int, int, int, int]) -> None:
    """Where a replay says more than the segments did, the search ends all the same, with what the replay allows."""
    seed, n_layer, n_cards, n_contexts = case
    contexts = range(STEP, STEP * (n_contexts + 1), STEP)
    table, chains = chains_of(seed, n_layer, n_cards, contexts)
    chance = Random(seed)
    table.extra = {split: chance.randint(0, 3) * UNIT for split in splits(n_layer, n_cards)}
    found = largest(chains, contexts)
    if found is not None:
        assert fit(table.learn(found[1], found[0]), chains.room)
        assert chains.only in (None, found[1])
    least_short(Chains(chains.segments, chains.room), contexts[0])


def test_a_shortfall_that_no_replay_lowers_ends() -> None:
    """A split whose replay always says more than is known of its segments is replayed once."""
    table = Table(1, 4, 3, range(STEP, 2 * STEP, STEP))
    table.extra = dict.fromkeys(splits(4, 3), 9 << 20)
    honest = table.learn

    def learn(split: Split, n_ctx: int) -> tuple[int, ...]:
        assert len(table.log) < 100, "it goes on for ever"
        known = dict(table._sizes)
        found = honest(split, n_ctx)
        table._sizes = known  # nothing is learned from it
        return found

    table.learn = learn  # type: ignore[method-assign]
    assert sum(least_short(Chains(cast(Segments, table), [0, 0, 0]), STEP)) == 4


@given(st.integers(-3, 20), st.integers(-3, 20), st.integers(-5, 25))
def test_the_last_where_it_holds(low: int, high: int, last: int) -> None:
    """Of positions above `low` and up to `high` the last that is not above `last`, else `low`; few are asked."""
    asked: list[int] = []

    def holds(at: int) -> bool:
        asked.append(at)
        return at <= last

    assert last_where(holds, low, high) == max(low, min(last, high))
    assert all(low < at <= high for at in asked)
    assert len(asked) == len(set(asked)) <= 1 + max(0, high - low).bit_length()
    if high > low and last >= high:
        assert asked == [high]
