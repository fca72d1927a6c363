"""Numbers of many traces → expressions over named dimensions.

In: what one position of a merged block was in each trace. Out: its `Line`. What ggml's own rules give from
the sources is not stated. For the rest the simplest expression is taken that gives the traced number in
every sample; `Unexplained` where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vramfit._ggml.types import BY_NAME
from vramfit._graphs.build import layout
from vramfit._graphs.expressions import Expression, OutsideTemplate, evaluate
from vramfit._graphs.rules import Shape, derive, result_type
from vramfit._graphs.text import Line

from .merge import Position
from .observe import Seen, Traced

Sample = tuple[Seen, Traced, int]
Values = tuple[int, ...]
_LARGEST = 1 << 40
_FACTORS = (2, 3, 4, 6, 8, 64, 128)


class Unexplained(Exception):
    """No expression gives these numbers; the text says of what."""


class Names:
    """The named dimensions that all of some samples have, and their values in each."""

    def __init__(self, samples: Sequence[tuple[Traced, int]]) -> None:
        tables = [_table(traced, block) for traced, block in samples]
        common = [n for n in tables[0] if all(n in t for t in tables)]
        self.constant: dict[str, int] = {}
        self.by_values: dict[Values, str] = {}
        for name in common:
            values = tuple(t[name] for t in tables)
            if len(set(values)) == 1:
                self.constant[name] = values[0]
            elif min(values) > 0:
                self.by_values.setdefault(values, name)
        self.names = list(self.by_values.values())
        self.array = np.array(list(self.by_values), dtype=np.int64).reshape(len(self.names), len(tables))
        self.memo: dict[Values, Expression | None] = {}

    def find(self, values: Values) -> Expression | None:
        """The simplest expression with these values."""
        if len(set(values)) == 1:
            return values[0]
        if values in self.by_values:
            return self.by_values[values]
        if values not in self.memo:
            self.memo[values] = self._search(np.array(values, dtype=np.int64)) if min(values) >= 0 else None
        return self.memo[values]

    def _search(self, v: np.ndarray) -> Expression | None:
        for level in (
            self._pairs,
            self._scaled,
            self._sums,
            self._triples,
            self._bounded,
            self._quadruples,
            self._lessened,
        ):
            e = level(v)
            if e is not None:
                return e
        return None

    def _pairs(self, v: np.ndarray) -> Expression | None:
        a = self.array
        return self._first2("*", (a[:, None, :] * a[None, :, :] == v).all(-1)) or self._first2(
            "/", (a[None, :, :] * v == a[:, None, :]).all(-1)
        )

    def _scaled(self, v: np.ndarray) -> Expression | None:
        for k in _FACTORS:
            for op, hit in (("*", self.array * k == v), ("/", self.array == v * k)):
                at = np.flatnonzero(hit.all(-1))
                if len(at):
                    return (op, self.names[at[0]], k)
        for k in (1, 2, 3):
            for op, sign in (("-", -1), ("+", 1)):
                at = np.flatnonzero((self.array + sign * k == v).all(-1))
                if len(at):
                    return (op, self.names[at[0]], k)
        return None

    def _sums(self, v: np.ndarray) -> Expression | None:
        a = self.array
        return self._first2("+", (a[:, None, :] + a[None, :, :] == v).all(-1)) or self._first2(
            "-", (a[:, None, :] - a[None, :, :] == v).all(-1)
        )

    def _triples(self, v: np.ndarray) -> Expression | None:
        a, n = self.array, self.names
        product = a[:, None, :] * a[None, :, :]
        difference = a[:, None, :] - a[None, :, :]
        total = a[:, None, :] + a[None, :, :]
        for x, name in enumerate(n):
            for inner, table, op, hit in (
                ("*", product, "/", product == a[x] * v),
                ("*", product, "*", product * a[x] == v),
                ("*", product, "+", product + a[x] == v),
                ("*", product, "-", product - a[x] == v),
                ("-", difference, "/", difference == a[x] * v),
                ("+", total, "/", total == a[x] * v),
                ("+", total, "*", total * a[x] == v),
                ("-", difference, "*", difference * a[x] == v),
                ("+", total, "+", total + a[x] == v),
            ):
                del table
                pair = self._first2(inner, hit.all(-1))
                if pair is not None:
                    return (op, pair, name)
        for k in _FACTORS:
            for inner, table in (("*", product), ("+", total), ("-", difference)):
                for op, hit in (("*", table * k == v), ("/", table == v * k)):
                    pair = self._first2(inner, hit.all(-1))
                    if pair is not None:
                        return (op, pair, k)
            for x, name in enumerate(n):
                pair = self._first2("*", (k * product + a[x] == v).all(-1))
                if pair is not None:
                    return ("+", ("*", pair, k), name)
                at = np.flatnonzero((k * a + a[x] == v).all(-1))
                if len(at):
                    return ("+", ("*", n[at[0]], k), name)
        for k in (1, 2, 3):
            for sign, op in ((-1, "-"), (1, "+")):
                for x, name in enumerate(n):
                    at = np.flatnonzero(((a + sign * k) * a[x] == v).all(-1))
                    if len(at):
                        return ("*", (op, n[at[0]], k), name)
        return None

    def _bounded(self, v: np.ndarray) -> Expression | None:
        a = self.array
        for op, table in (("min", np.minimum), ("max", np.maximum)):
            pair = self._first2(op, (table(a[:, None, :], a[None, :, :]) == v).all(-1))
            if pair is not None:
                return pair
        for k in (2, 4, 16, 32, 64, 128, 256):
            for op, value in (
                ("pad", -(-a // k) * k),
                ("ceil", -(-a // k)),
                ("min", np.minimum(a, k)),
                ("max", np.maximum(a, k)),
            ):
                at = np.flatnonzero((value == v).all(-1))
                if len(at):
                    return (op, self.names[at[0]], k)
        return self._first2("ceil", (-(-a[:, None, :] // a[None, :, :]) == v).all(-1)) or self._least_of(v)

    def _least_of(self, v: np.ndarray) -> Expression | None:
        """The smaller of one dimension, a little more or less, and another."""
        for k in (-3, -2, -1, 1, 2, 3):
            pair = self._first2("min", (np.minimum((self.array + k)[:, None, :], self.array) == v).all(-1))
            if pair is not None:
                return ("min", ("+" if k > 0 else "-", pair[1], abs(k)), pair[2])
        return None

    def _quadruples(self, v: np.ndarray) -> Expression | None:
        """a*b + c*d, a*b - c*d."""
        sums: dict[Values, Expression] = {}
        for i, x in enumerate(self.names):
            for j in range(i, len(self.names)):
                key = tuple((self.array[i] * self.array[j]).tolist())
                sums.setdefault(key, ("*", x, self.names[j]))
        goal = tuple(v.tolist())
        for key, e in sums.items():
            for op, rest in (("+", tuple(g - k for g, k in zip(goal, key, strict=True))),
                             ("-", tuple(k - g for g, k in zip(goal, key, strict=True)))):  # fmt: skip
                if rest in sums:
                    return (op, e, sums[rest])
        return None

    def _lessened(self, v: np.ndarray) -> Expression | None:
        """a - c, where c is an extent of a weight that all models have alike."""
        for name, value in self.constant.items():
            at = np.flatnonzero((self.array - value == v).all(-1)) if name[0] in "@$" else ()
            if len(at):
                return ("-", self.names[at[0]], name)
        return None

    def _first2(self, op: str, hits: np.ndarray) -> Expression | None:
        at = np.argwhere(hits)
        return (op, self.names[at[0][0]], self.names[at[0][1]]) if len(at) else None


def _table(traced: Traced, block: int) -> dict[str, int]:
    scope = traced.scope(block)
    layer = traced.layer(block)
    found = {n: v for n, v in scope._dims.items() if n[0] not in "@$." and n != "n_head.first"}
    if layer is not None and layer.is_recurrent:  # headers may say 0 for these
        found = {n: v for n, v in found.items() if n not in ("n_head", "n_head_kv", "head_k", "head_v")}
    own, outer, weights = scope._own, scope._outer, traced.model.weights
    for suffix, index in own.items():
        found |= {f"@{suffix}:{d}": n for d, n in enumerate(weights[index].tensor.shape) if n > 1}
    for name, at in outer.items():
        found |= {f"${name}:{d}": n for d, n in enumerate(weights[at[0]].tensor.shape) if n > 1}
    found["n_head.first"] = scope.value("n_head.first")
    for key, value in traced.model.hparams.items():
        if isinstance(value, (list, tuple)):
            value = value[layer.index] if layer is not None and layer.index < len(value) else None
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31:
            found[f".{key}"] = value
    return found


class Inferrer:
    """Finds the line of a position; remembers the tables of names."""

    def __init__(self) -> None:
        self._names: dict[tuple[tuple[int, int], ...], Names] = {}
        self._lines: dict[tuple[str, str], list[Line]] = {}
        self.constants: set[str] = set()  # header numbers that no trace varied and a constant may stand for

    def names(self, samples: Sequence[Sample]) -> Names:
        key = tuple((id(t), b) for _, t, b in samples)
        if key not in self._names:
            self._names[key] = Names([(t, b) for _, t, b in samples])
        return self._names[key]

    def line(self, p: Position, samples: Sequence[Sample]) -> Line:
        """Extents, strides, type and marks. Raises `Unexplained`.

        A line that too few models have may be explained by its like in another kind of layer.
        """
        key = (p.like.op, p.label.split("#")[0])
        try:
            line = self._line(p, samples)
        except Unexplained:
            for known in self._lines.get(key, ()):
                if _agrees(known, samples):
                    return replace(known, label=p.label, args=p.args, guard=p.guard, marks=_marks(p))
            raise
        if (line.ne or line.count is not None) and _several(samples):
            self._lines.setdefault(key, []).append(line)
        return line

    def _line(self, p: Position, samples: Sequence[Sample]) -> Line:
        seen = [s for s, _, _ in samples]
        like = seen[0]
        marks = _marks(p)
        if like.op == "next":
            return Line("next", "next", guard=p.guard)
        type_ = self._type(samples)
        count = None
        if like.op in ("sum_slices", "sum_heads"):
            count = self._find("count", tuple(s.count for s in seen), samples)
            return Line(p.label, like.op, p.args, count, "", (), (), marks, p.guard)
        ne: tuple[Expression, ...] = ()
        nb: tuple[Expression | None, ...] = ()
        if not all(_derived(s) for s in seen):
            ne = self._extents(p, samples)
            nb = self._strides(p, samples)
        return Line(p.label, like.op, p.args, count, type_, ne, nb, marks, p.guard)

    def _type(self, samples: Sequence[Sample]) -> str:
        if all(
            s.op != "input" and s.op != "cache" and result_type(s.op, _shapes(s)).name == s.node.type
            for s, _, _ in samples
        ):
            return ""
        types = {s.node.type for s, _, _ in samples}
        if samples[0][0].op == "cache":
            for letter, which in (("K", "type_k"), ("V", "type_v")):
                if len(types) > 1 and all(
                    getattr(t.run.context, which).name == s.node.type for s, t, _ in samples
                ):
                    return letter
        if len(types) == 1:
            return types.pop()
        for letter, which in (("K", "type_k"), ("V", "type_v")):
            if all(getattr(t.run.context, which).name == s.node.type for s, t, _ in samples):
                return letter
        raise Unexplained(f"type {sorted(types)}")

    def _extents(self, p: Position, samples: Sequence[Sample]) -> tuple[Expression, ...]:
        seen = [s for s, _, _ in samples]
        found: list[Expression] = []
        plain = self._plain(seen, samples)
        if plain.count(None) == 1 and seen[0].op in ("reshape", "cont", "flat"):
            plain[plain.index(None)] = "rest"
        for d, e in enumerate(plain):
            values = tuple(s.node.ne[d] for s in seen)
            found.append(e if e is not None else self._find(f"extent {d}", values, samples))
        while len(found) > 1 and found[-1] == 1:
            found.pop()
        return tuple(found)

    def _plain(self, seen: Sequence[Seen], samples: Sequence[Sample]) -> list[Expression | None]:
        """Extents that are those of a source, a name or a number; None for the others."""
        found: list[Expression | None] = []
        for d in range(4):
            values = tuple(s.node.ne[d] for s in seen)
            e = self._of_source(values, seen, d)
            if e is None and len(set(values)) > 1:
                e = self.names(samples).by_values.get(values)
            elif e is None and _several(samples):
                e = self._find("", values, samples)
            found.append(e)
        return found

    def _of_source(self, values: Values, seen: Sequence[Seen], d: int) -> Expression | None:
        """An extent of a source; of a view only the same one, for the others are chance."""
        if values[0] <= 1 and len(set(values)) == 1:
            return values[0]
        n = min(len(s.sources) for s in seen)
        for j in range(n):
            for axis in (d, *range(4)):
                if len(set(values)) > 1 and tuple(s.sources[j].ne[axis] for s in seen) == values:
                    return f"{'abcdefgh'[j]}{axis}"
        return None

    def _find(self, what: str, values: Values, samples: Sequence[Sample]) -> Expression:
        names = self.names(samples)
        e = names.find(values)
        if not _several(samples) and (isinstance(e, tuple) or (isinstance(e, int) and e > 1)):
            raise Unexplained(f"{what}: {values[:4]} in models of one width only")
        if e is None:
            raise Unexplained(f"{what}: {values[:8]}")
        if isinstance(e, int) and e > 1:
            same = [n for n, v in names.constant.items() if v == e and n[0] not in ".@$"]
            if same:
                raise Unexplained(f"{what}: is it {e} or {same[0]}? No model varied that")
            self.constants |= {f"{n}={v}" for n, v in names.constant.items() if v == e and n[0] == "."}
        return e

    def _strides(self, p: Position, samples: Sequence[Sample]) -> tuple[Expression | None, ...]:
        if samples[0][0].op in ("input", "cache"):
            return ()
        found: list[Expression | None] = []
        for d in (1, 2, 3):
            found.append(self._stride(d, samples))
        return () if all(e is None for e in found) else tuple(found)

    def _stride(self, d: int, samples: Sequence[Sample]) -> Expression | None:
        seen = [s for s, _, _ in samples]
        if all(s.node.nb[d] == _from_below(s, d) for s in seen):
            return None
        values = tuple(s.node.nb[d] for s in seen)
        n = min(len(s.sources) for s in seen)
        for j in range(n):
            for axis in (d, *range(4)):
                if tuple(s.sources[j].nb[axis] for s in seen) == values:
                    return f"s{'abcdefgh'[j]}{axis}"
        elements = []
        for s, v in zip(seen, values, strict=True):
            t = BY_NAME[s.node.type]
            if v * t.block % t.block_bytes:
                raise Unexplained(f"stride {d}: {v} bytes of {t.name}")
            elements.append(v * t.block // t.block_bytes)
        return self._find(f"stride {d}", tuple(elements), samples)


def _several(samples: Sequence[Sample]) -> bool:
    """Whether the samples come from models of different dimensions."""
    return len({t.model.n_embd for _, t, _ in samples}) > 1


def _marks(p: Position) -> frozenset[str]:
    marks = frozenset[str]().union(*(x.marks for x in p.found.values())) - {"once"}
    return marks | {"once"} if p.once else marks


def _agrees(line: Line, samples: Sequence[Sample]) -> bool:
    """Whether a line gives what the samples have."""
    try:
        for seen, traced, block in samples:
            sources = _shapes(seen)

            def look_up(
                name: str, sources: list[Shape] = sources, traced: Traced = traced, block: int = block
            ) -> int:
                if len(name) == 2 and name[1].isdigit():
                    return sources[ord(name[0]) - 97].ne[int(name[1])]
                return traced.scope(block).value(name)

            if line.count is not None:
                if evaluate(line.count, look_up) != seen.count:
                    return False
                continue
            shape = layout(line, BY_NAME[seen.node.type], sources, look_up)
            if (shape.ne, shape.nb) != (tuple(seen.node.ne), tuple(seen.node.nb)) or (
                line.type and line.type not in ("K", "V", seen.node.type)
            ):
                return False
    except (OutsideTemplate, IndexError):
        return False
    return True


def _from_below(s: Seen, d: int) -> int:
    t = BY_NAME[s.node.type]
    if d == 1:
        return s.node.ne[0] // t.block * t.block_bytes if s.node.ne[0] % t.block == 0 else -1
    return s.node.nb[d - 1] * s.node.ne[d - 1]


def _shapes(s: Seen) -> list[Shape]:
    return [Shape(BY_NAME[n.type], n.ne, n.nb) for n in s.sources]  # type: ignore[arg-type]


def _derived(s: Seen) -> bool:
    """Whether ggml's rules give this tensor's layout."""
    if s.op in ("input", "cache"):
        return False
    try:
        found = derive(s.op, _shapes(s))
    except (IndexError, ValueError):
        return False
    if found is None:
        return False
    ne, nb = found
    flat = [s.node.nb[0], *(_from_below(s, d) for d in (1, 2, 3))]
    return ne == tuple(s.node.ne) and (tuple(nb) == tuple(s.node.nb) if nb else flat == list(s.node.nb))
