"""What differs between the build that the library follows and another, in words: rules, then architectures, then tables."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

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
    what = "gone" if change.after is None else f"moved to {change.moved}" if change.moved else "changed"
    at = change.after or change.before
    yield f"\n{change.moved or change.path}:{at.start} {change.before.name}: {what}"
    yield f"  cited by {_few([str(p) for p in change.places])}"
    if change.after is not None:
        yield from (f"    {line}" for line in difference(change.before, change.after, most))


def architecture_lines(old: tuple[Tree, Tables], new: tuple[Tree, Tables], most: int) -> Iterator[str]:
    """Architectures that are new, gone and changed, each with what a person begins with."""
    was, now = old[1].architectures, new[1].architectures
    both = sorted(was.keys() & now.keys())
    differ = {name: d for name in both if (d := _first(was[name], now[name], old[0], new[0]))}
    added, gone = sorted(now.keys() - was.keys()), sorted(was.keys() - now.keys())
    yield f"Architectures: {len(added)} new, {len(gone)} gone, {len(differ)} of {len(both)} changed."
    for name in added:
        path = now[name][0][0] if now[name] else "no definition of its own"
        kin, share = likest(now[name], new[0], was, old[0])
        yield f"\n+ {name}: {path}, {share:.0%} of its lines are in {kin}"
    yield from (f"\n- {name}" for name in gone)
    for name, (path, before, after) in differ.items():
        yield f"\n  {name}: {path}:{after.start if after else before.start if before else 0} {(after or before).name}"  # type: ignore[union-attr]
        if before and after:
            yield from (f"    {line}" for line in difference(before, after, most))
        else:
            yield "    new" if after else "    gone"


def _first(was: Names, now: Names, old: Tree, new: Tree) -> tuple[str, Part | None, Part | None] | None:
    """The first definition of an architecture that is not what it was."""
    before, after = parts_of(was, old), parts_of(now, new)
    left = {(path, p.name, p.digest) for path, p in before}
    for path, part in after:
        if (path, part.name, part.digest) not in left:
            return path, next((p for home, p in before if (home, p.name) == (path, part.name)), None), part
    left = {(path, p.name, p.digest) for path, p in after}
    return next(
        ((path, part, None) for path, part in before if (path, part.name, part.digest) not in left), None
    )


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
