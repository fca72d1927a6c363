"""What differs between the build that the library follows and another, in words: rules, then architectures, then tables."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from .architectures import Names, Tables, likest, parts_of
from .citations import Place
from .rules import Change, changes, difference, kinds, uncited
from .trees import Part, Tree

__all__ = ["architecture_lines", "rule_lines", "table_lines"]

_NAMES: Final = 12  # of a list that is only counted beyond
Places = Mapping[tuple[str, str], Sequence[Place]]


def rule_lines(places: Places, old: Tree, new: Tree, most: int) -> Iterator[str]:
    """Each cited definition that changed, by what it is about: who cites it, and at most so many lines of the difference."""
    found = [c for c in changes(places, old, new) if not c.path.startswith("src/models/")]
    n = sum(not path.startswith("src/models/") for path, _ in places)
    yield f"Rules: {len(found)} of {n} definitions that are cited changed ({_counted(found)})."
    for kind in kinds():
        for i, change in enumerate(c for c in found if c.kind == kind):
            if not i:
                yield f"\n## {kind}"
            yield from _change_lines(change, most)
    yield "\n## changed in the same files, cited by nobody"
    for path, names in uncited(places, old, new).items():
        if not path.startswith("src/models/"):
            yield f"  {path}: {_few(names)}"


def _counted(found: Sequence[Change]) -> str:
    counts = Counter(c.kind for c in found)
    return ", ".join(f"{kind} {counts[kind]}" for kind in kinds() if counts[kind]) or "nothing"


def _change_lines(change: Change, most: int) -> Iterator[str]:
    before, after = change.before, change.after
    what = "new" if before is None else "gone" if after is None else "changed"
    at = after or before
    moved = f"moved to {change.moved}" if change.moved else what
    yield f"\n{change.moved or change.path}:{at.start if at else 0} {change.name}: {moved}"
    yield f"  cited by {_few([str(p) for p in change.places])}"
    if before and after:
        yield from (f"    {line}" for line in difference(before, after, most))


def architecture_lines(old: tuple[Tree, Tables], new: tuple[Tree, Tables], most: int) -> Iterator[str]:
    """Architectures that are new, gone and changed, each with what a person begins with."""
    was, now = old[1].architectures, new[1].architectures
    both = sorted(was.keys() & now.keys())
    differ = {name: d for name in both if (d := _differing(was[name], now[name], old[0], new[0]))}
    added, gone = sorted(now.keys() - was.keys()), sorted(was.keys() - now.keys())
    yield f"Architectures: {len(added)} new, {len(gone)} gone, {len(differ)} of {len(both)} changed."
    for name in added:
        path = now[name][0][0] if now[name] else "no definition of its own"
        kin, share = likest(now[name], new[0], was, old[0])
        yield f"\n+ {name}: {path}, {share:.0%} of its lines are in {kin}"
    yield from (f"\n- {name}" for name in gone)
    yield f"Changed in what makes their graphs:{_list([n for n, d in differ.items() if any('::graph' in x.name for x in d)])}"
    for name, (first, *rest) in differ.items():
        yield f"\n  {name}: {first.path}:{first.line} {first.name}"
        yield from (f"    {line}" for line in first.lines(most))
        if rest:
            yield f"    and {_few([x.name for x in rest])}"


class _Differing(NamedTuple):
    """A definition that an architecture is made of, as it was and as it is; None where there is none."""

    path: str
    name: str
    before: Part | None
    after: Part | None

    @property
    def line(self) -> int:
        part = self.after or self.before
        return part.start if part else 0

    def lines(self, most: int) -> list[str]:
        """What is new and gone of it."""
        if self.before and self.after:
            return difference(self.before, self.after, most)
        return ["new" if self.after else "gone"]


def _differing(was: Names, now: Names, old: Tree, new: Tree) -> list[_Differing]:
    """The definitions of an architecture that are not what they were, what makes its graph first."""
    before = {(path, p.name): p for path, p in parts_of(was, old)}
    after = {(path, p.name): p for path, p in parts_of(now, new)}
    found = []
    for key in dict.fromkeys((*after, *before)):
        a, b = before.get(key), after.get(key)
        if a is None or b is None or a.digest != b.digest:
            found.append(_Differing(*key, a, b))
    return sorted(found, key=lambda x: "::graph" not in x.name)


def table_lines(old: Tables, new: Tables) -> Iterator[str]:
    """Header keys, tensor names, flags and models of the converter that are new and gone."""
    for words, was, now in (
        ("header keys", old.keys, new.keys),
        ("tensor names", old.tensors, new.tensors),
        ("flags", old.flags, new.flags),
        ("models of the converter", old.converter, new.converter),
    ):
        added, gone = sorted(set(now) - set(was)), sorted(set(was) - set(now))
        yield f"{words}: {len(added)} new{_list(added)}; {len(gone)} gone{_list(gone)}"
    changed = sorted(
        k for k in old.converter.keys() & new.converter.keys() if old.converter[k] != new.converter[k]
    )
    yield f"models that the converter reads otherwise: {len(changed)}{_list(changed)}"


def _list(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _few(names: Sequence[str]) -> str:
    said = list(itertools.islice(dict.fromkeys(names), _NAMES))
    left = len(set(names)) - len(said)
    return ", ".join(said) + (f" and {left} more" if left > 0 else "")
