"""Many traced blocks of one kind → one list of positions, each with the blocks that it occurs in.

In: blocks as `observe` cuts them. Out: `Position`s in an order that suits all of them, the condition under
which each occurs, the names it reads. Two lines of different blocks are the same position if they do the
same with the same weights and an alignment of the blocks puts them together.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from vramfit._graphs.text import Guard

from .observe import Seen, Traced, base_name

_TYPED_BY_RUN = frozenset(
    ("view", "reshape", "permute", "transpose", "set_rows", "cpy", "cache", "cont", "flat")
)


@dataclass(eq=False)
class Observation:
    """One block of one trace and the conditions that hold there. `at` is the position of each line."""

    traced: Traced
    block: int
    lines: list[Seen]
    truths: frozenset[str]
    at: list[int] = field(default_factory=list)


@dataclass(eq=False)
class Position:
    """A line of the merged block."""

    like: Seen
    found: dict[int, Seen] = field(default_factory=dict)  # by number of the observation
    label: str = ""
    once: bool = False
    guard: Guard = ()
    args: tuple[tuple[str, ...], ...] = ()


def signature(observation: Observation) -> tuple[object, ...]:
    """What two blocks of the same topology have in common."""
    known = observation.traced.signatures
    if observation.block not in known:
        known[observation.block] = _signature(observation)
    return known[observation.block]


def _signature(observation: Observation) -> tuple[object, ...]:
    here = {line.id: i for i, line in enumerate(observation.lines)}
    tensors = observation.traced.dump.tensors

    def ref(kind: str, what: object) -> object:
        if kind != "t":
            return kind, what
        return (
            here[what] if what in here else ("far", tensors[what].op, tensors[what].name.rstrip("0123456789"))
        )

    return tuple(
        (x.op, x.name, _type(x), x.marks, x.outer, tuple(ref(*r) for r in x.refs), x.inputs)
        for x in observation.lines
    )


def _type(x: Seen) -> str:
    return "" if x.op.split(".")[0] in _TYPED_BY_RUN else x.node.type


def merge(observations: Sequence[Observation]) -> list[Position]:
    """Align all blocks. Longest first: what the others lack then falls into place."""
    merged: list[Position] = []
    order = sorted(range(len(observations)), key=lambda i: -len(observations[i].lines))
    for _ in range(
        3
    ):  # again, so that lines which could stand in two places go where most of their kind went
        popular = {id(p): len(p.found) for p in merged}
        for p in merged:
            p.found = {}
        aligned: dict[tuple[object, ...], list[Position]] = {}
        for number in order:
            o = observations[number]
            key = signature(o)
            if key not in aligned:
                merged, aligned[key] = _align(merged, o.lines, popular)
            for position, line in zip(aligned[key], o.lines, strict=True):
                position.found[number] = line
        merged = [p for p in merged if p.found]
    index = {id(p): i for i, p in enumerate(merged)}
    for o in observations:
        o.at = [index[id(p)] for p in aligned[signature(o)]]
    return merged


def _align(
    merged: list[Position], lines: list[Seen], popular: dict[int, int]
) -> tuple[list[Position], list[Position]]:
    """The merged list with room for `lines`, and where each line went: the alignment that scores most."""
    n, m = len(merged), len(lines)
    scores = _scores([p.like for p in merged], lines)
    liked = np.array([popular.get(id(p), 0) for p in merged], dtype=np.int64)
    scores = (
        np.where(scores > 0, (scores << 20) + liked[:, None], 0) if n and m else np.zeros((n, m), np.int64)
    )
    best = np.zeros((n + 1, m + 1), dtype=np.int64)
    for i in range(n - 1, -1, -1):
        taken = np.where(scores[i] > 0, best[i + 1, 1:] + scores[i], 0)
        best[i, :-1] = np.maximum.accumulate(np.maximum(best[i + 1, :-1], taken)[::-1])[::-1]
    result: list[Position] = []
    went: list[Position] = []
    i = j = 0
    while i < n or j < m:
        if i < n and j < m and scores[i, j] and best[i, j] == best[i + 1, j + 1] + scores[i, j]:
            result.append(merged[i])
            went.append(merged[i])
            i, j = i + 1, j + 1
        elif j >= m or (i < n and best[i, j] == best[i + 1, j]):
            result.append(merged[i])
            i += 1
        else:
            result.append(Position(lines[j]))
            went.append(result[-1])
            j += 1
    return result, went


_Key = tuple[object, tuple[object, ...], str, frozenset[object]]

_KEYS: dict[_Key, int] = {}
_PAIRS: dict[tuple[int, int], int] = {}


def _scores(old: Sequence[Seen], new: Sequence[Seen]) -> np.ndarray:
    """How well each pair of lines suits; 0: not at all."""
    rows, columns = ([_KEYS.setdefault(k, len(_KEYS)) for k in map(_key, xs)] for xs in (old, new))
    names = list(_KEYS)
    for a in set(rows):
        for b in set(columns):
            if (a, b) not in _PAIRS:
                one, two = names[a], names[b]
                _PAIRS[a, b] = _score(one, two) if one[0] == two[0] and _fits(one, two) else 0
    return np.array([[_PAIRS[a, b] for b in columns] for a in rows], dtype=np.int64)


def _key(x: Seen) -> _Key:
    weights = (*(r for r in x.refs if r[0] != "t"), *(("input", name) for name in x.inputs))
    name = x.name if x.op in ("input", "cache") else ""
    return ((x.op, _type(x), name, "output" in x.marks, "hadamard" in x.marks, "inplace" in x.marks, "early" in x.marks,
             "layer" in x.marks, "unread" in x.marks),
            weights, x.name, frozenset((*((s.op, base_name(s.name)) for s in x.sources), *x.grown)))  # fmt: skip


def _fits(a: _Key, b: _Key) -> bool:
    """Weights must agree, though one may lack an optional one; lines without weights must read alike."""
    one, two = set(a[1]), set(b[1])
    if one == two:
        if one:
            return True
        if a[0][0].split(".")[0] in _LOOKS:  # type: ignore[index]
            return a[2] == b[2]
        return bool(a[2] and a[2] == b[2]) or bool(a[3] & b[3]) or (not a[3] and not b[3])
    return _optional_only(one ^ two)


_LOOKS = frozenset(("view", "reshape", "permute", "transpose", "cont", "cast", "set_rows", "flat"))


def _optional_only(rest: set[object]) -> bool:
    return all(isinstance(r, tuple) and ("rope_f" in str(r[1]) or "sinks" in str(r[1])) for r in rest)


def _score(a: _Key, b: _Key) -> int:
    named = {n for _, n in a[3] if n} & {n for _, n in b[3] if n}
    same = a[2] == b[2] and bool(a[2])
    return 4 + 4 * (bool(a[1]) and a[1] == b[1]) + 2 * same + 2 * bool(named) + len(a[3] & b[3])


# --- conditions


def find_guard(
    truths: Sequence[frozenset[str]], present: Sequence[bool], atoms: Sequence[str]
) -> Guard | None:
    """The simplest condition over `atoms` that is true exactly where `present` is.

    None where there is none of at most three alternatives of at most three literals.
    """
    if all(present):
        return ()
    rows: dict[tuple[frozenset[str], bool], None] = dict.fromkeys(zip(truths, present, strict=True))
    table = list(rows)
    want = _mask(p for _, p in table)
    full = (1 << len(table)) - 1
    literals: dict[str, int] = {}
    taken: set[int] = set()
    for a in atoms:
        mask = _mask(a in t for t, _ in table)
        if mask not in (0, full) and mask not in taken:
            taken |= {mask, full & ~mask}
            literals[a] = mask
            literals["!" + a] = full & ~mask
    names = list(literals)
    implied: list[tuple[tuple[str, ...], int]] = []
    for size in (1, 2, 3):
        for combo in itertools.combinations(names, size):
            mask = full
            for x in combo:
                mask &= literals[x]
            if mask == want:
                return (tuple(sorted(combo)),)
            if mask and not mask & ~want:
                implied.append((combo, mask))
    if not implied:
        return None
    return _cover(implied, want)


def _mask(bits: Iterable[bool]) -> int:
    return sum(1 << i for i, bit in enumerate(bits) if bit)


def _cover(implied: list[tuple[tuple[str, ...], int]], want: int) -> Guard | None:
    """Few alternatives that cover `want` together."""
    seen: dict[int, tuple[str, ...]] = {}
    for combo, mask in implied:
        seen.setdefault(mask, combo)
    masks = sorted(seen, key=lambda m: (len(seen[m]), -bin(m).count("1")))[:400]
    for size in (2, 3):
        for combo in itertools.combinations(masks if size == 2 else masks[:60], size):
            union = 0
            for m in combo:
                union |= m
            if union == want:
                return tuple(tuple(sorted(seen[m])) for m in combo)
    return None
