"""Many traced blocks of one kind → one list of positions, each with the blocks that it occurs in.

In: blocks as `observe` cuts them. Out: `Position`s in an order that suits all of them, the condition under
which each occurs, the names it reads. Two lines of different blocks are the same position if they do the
same with the same weights and an alignment of the blocks puts them together.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from vramfit.graphs.text import Guard

from .observe import Seen, Traced

_TYPED_BY_RUN = frozenset(("view", "reshape", "permute", "transpose", "set_rows", "cpy", "cache", "cont"))


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
    here = {line.id: i for i, line in enumerate(observation.lines)}
    tensors = observation.traced.dump.tensors

    def ref(kind: str, what: object) -> object:
        if kind != "t":
            return kind, what
        return here[what] if what in here else ("far", tensors[what].op, tensors[what].name.rstrip("0123456789"))

    return tuple(
        (x.op, x.name, _type(x), x.marks, x.outer, tuple(ref(*r) for r in x.refs)) for x in observation.lines
    )


def _type(x: Seen) -> str:
    return "" if x.op.split(".")[0] in _TYPED_BY_RUN else x.node.type


def merge(observations: Sequence[Observation]) -> list[Position]:
    """Align all blocks. Longest first: what the others lack then falls into place."""
    merged: list[Position] = []
    aligned: dict[tuple[object, ...], list[Position]] = {}
    order = sorted(range(len(observations)), key=lambda i: -len(observations[i].lines))
    for number in order:
        o = observations[number]
        key = signature(o)
        if key not in aligned:
            merged, aligned[key] = _align(merged, o.lines)
        for position, line in zip(aligned[key], o.lines, strict=True):
            position.found[number] = line
    index = {id(p): i for i, p in enumerate(merged)}
    for number, o in enumerate(observations):
        o.at = [index[id(p)] for p in aligned[signature(o)]]
    return merged


def _align(merged: list[Position], lines: list[Seen]) -> tuple[list[Position], list[Position]]:
    """The merged list with room for `lines`, and where each line went: the alignment that scores most."""
    n, m = len(merged), len(lines)
    old = [_key(p.like) for p in merged]
    new = [_key(x) for x in lines]
    by_key: dict[object, list[int]] = {}
    for j, k in enumerate(new):
        by_key.setdefault(k[0], []).append(j)
    best = [[0] * (m + 1) for _ in range(n + 1)]
    for i in range(n - 1, -1, -1):
        row, below = best[i], best[i + 1]
        matches = set(by_key.get(old[i][0], ()))
        for j in range(m - 1, -1, -1):
            score = max(below[j], row[j + 1])
            if j in matches and _fits(old[i], new[j]):
                score = max(score, below[j + 1] + _score(old[i], new[j]))
            row[j] = score
    result: list[Position] = []
    went: list[Position] = []
    i = j = 0
    while i < n or j < m:
        if i < n and j < m and old[i][0] == new[j][0] and _fits(old[i], new[j]) and best[i][j] == best[i + 1][j + 1] + _score(old[i], new[j]):
            result.append(merged[i])
            went.append(merged[i])
            i, j = i + 1, j + 1
        elif j >= m or (i < n and best[i][j] == best[i + 1][j]):
            result.append(merged[i])
            i += 1
        else:
            result.append(Position(lines[j]))
            went.append(result[-1])
            j += 1
    return result, went


_Key = tuple[object, tuple[object, ...], str, frozenset[object]]


def _key(x: Seen) -> _Key:
    weights = tuple(r for r in x.refs if r[0] != "t")
    name = x.name if x.op in ("input", "cache") else ""
    return ((x.op, _type(x), name, "output" in x.marks, "hadamard" in x.marks, "inplace" in x.marks),
            weights, x.name, frozenset((s.op, re.sub(r"^node_\d+.*|-.*", "", s.name)) for s in x.sources))  # fmt: skip


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


_LOOKS = frozenset(("view", "reshape", "permute", "transpose", "cont", "cast", "set_rows"))


def _optional_only(rest: set[object]) -> bool:
    return all(isinstance(r, tuple) and ("rope_f" in str(r[1]) or "sinks" in str(r[1])) for r in rest)


def _score(a: _Key, b: _Key) -> int:
    return 4 + 4 * (bool(a[1]) and a[1] == b[1]) + 2 * (a[2] == b[2] and bool(a[2])) + len(a[3] & b[3])


# --- conditions


def find_guard(truths: Sequence[frozenset[str]], present: Sequence[bool], atoms: Sequence[str]) -> Guard | None:
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
    for a in atoms:
        mask = _mask(a in t for t, _ in table)
        if mask not in (0, full):
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
