"""Which rules changed: the definitions that the library cites, in one tree and in another.

In: citations and two trees. Out: a `Change` for each cited definition that is not as it was, with who cites it and what lines
are new and gone; and the names of the others in the same files that changed though nobody cites them.
"""

from __future__ import annotations

import difflib
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from .citations import Place
from .trees import Part, Tree

__all__ = ["Change", "changes", "difference", "kinds", "uncited"]

# What a file is about, by how its path begins; the first that fits.
_KINDS: Final = (
    ("placement and memory", ("src/llama-model-loader", "src/llama-model.", "src/llama-kv", "src/llama-memory", "src/llama-hparams")),
    ("context", ("src/llama-context", "src/llama-cparams", "src/llama.cpp", "include/llama.h", "src/llama-batch")),
    ("graphs of architectures", ("src/models/",)),
    ("graphs", ("src/llama-graph", "ggml/src/ggml.c", "ggml/include/ggml.h", "src/llama-impl")),
    ("architectures' names", ("src/llama-arch",)),
    ("scheduler", ("ggml/src/ggml-backend", "ggml/include/ggml-backend")),
    ("allocator", ("ggml/src/ggml-alloc", "ggml/include/ggml-alloc")),
    ("backends", ("ggml/src/ggml-",)),
    ("files", ("ggml/src/gguf", "ggml/include/gguf", "src/llama-vocab")),
    ("quantizer", ("src/llama-quant", "tools/quantize")),
    ("arguments", ("common/", "tools/server")),
)  # fmt: skip


class Change(NamedTuple):
    """A definition that is not as it was. `before` or `after` is None where it is new or gone; `moved`: the file it is in now."""

    path: str
    name: str
    before: Part | None
    after: Part | None
    moved: str
    places: tuple[Place, ...]

    @property
    def kind(self) -> str:
        """What the file is about."""
        return next((kind for kind, starts in _KINDS if self.path.startswith(starts)), "other")


def kinds() -> tuple[str, ...]:
    """The kinds of changes, in the order in which they are told."""
    return (*(kind for kind, _ in _KINDS), "other")


def changes(places: Mapping[tuple[str, str], Sequence[Place]], old: Tree, new: Tree) -> Iterator[Change]:
    """Compare each cited definition; those of one name are paired by what they say, then by their order."""
    for (path, name), cited in sorted(places.items()):
        before = [p for p in old.parts(path) if p.name == name]
        after, moved = [p for p in new.parts(path) if p.name == name], ""
        if before and not after and (homes := new.homes(name)):
            moved = min(homes, key=lambda h: h[0])[0]
            after = [p for home, p in homes if home == moved]
        for was, now in _pairs(before, after):
            if was is None or now is None or was.digest != now.digest or moved:
                yield Change(path, name, was, now, moved, tuple(cited))


def _pairs(before: Sequence[Part], after: Sequence[Part]) -> Iterator[tuple[Part | None, Part | None]]:
    left, rest = list(after), []
    for part in before:
        same = next((p for p in left if p.digest == part.digest), None)
        if same is None:
            rest.append(part)
        else:
            left.remove(same)
            yield part, same
    yield from itertools.zip_longest(rest, left)


def uncited(places: Mapping[tuple[str, str], object], old: Tree, new: Tree) -> dict[str, list[str]]:
    """Names in cited files that changed, are new (+) or gone (-), though no rule cites them."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted({path for path, _ in places}):
        was, now = _by_name(old.parts(path)), _by_name(new.parts(path))
        for name in sorted(was.keys() | now.keys()):
            if (path, name) not in places and was.get(name) != now.get(name):
                found[path].append(("+" if name not in was else "-" if name not in now else "") + name)
    return found


def _by_name(parts: Sequence[Part]) -> dict[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for part in parts:
        found[part.name].append(part.digest)
    return {name: sorted(digests) for name, digests in found.items()}


def difference(before: Part, after: Part, most: int) -> list[str]:
    """At most so many lines of what is new (+) and gone (-); of lines whose text is not known, only how many are gone."""
    found: list[str] = []
    matcher = difflib.SequenceMatcher(None, before.marks, after.marks, autojunk=False)
    for what, a, b, c, d in matcher.get_opcodes():
        if what == "equal":
            continue
        found += _gone(before, a, b)
        found += [f"+ {line}: {text}" for line, text in after.lines[c:d]]
    if not after.lines:
        return found[:most]
    left = len(found) - most
    return [*found[:most], f"  … {left} lines more"] if left > 0 else found


def _gone(part: Part, a: int, b: int) -> list[str]:
    if part.lines:
        return [f"- {line}: {text}" for line, text in part.lines[a:b]]
    return [f"- {b - a} line{'s' * (b - a > 1)}"] if b > a else []
