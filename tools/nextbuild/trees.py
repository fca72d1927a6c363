"""The definitions of a tree of the engine, read from its files or from what was recorded of them.

In: a folder, or a record. Out: `Part`s by path: a name, lines, and digests that comments and layout do not change. A record
holds no text of the engine: its lines are digests, which is enough to say what another tree has that it has not.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from ..engine.errors import EngineError
from .cpp import Definition, definitions

__all__ = ["Folder", "Part", "Record", "Tree", "load", "save"]

# Where rules come from; tests, examples and most programs of the engine are left out.
_FOLDERS: Final = ("src", "include", "ggml/include", "ggml/src", "common", "tools")
_SUFFIXES: Final = frozenset((".c", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".m", ".mm"))
_MARK: Final = (
    4  # bytes of a line's digest, written as twice as many letters: enough among the lines of one definition
)
_DIGEST: Final = 8


class Part(NamedTuple):
    """A definition. `marks`: a digest of each line that says something; `lines`: these with their numbers, none in a record."""

    name: str
    start: int
    end: int
    digest: str
    marks: tuple[str, ...] = ()
    lines: tuple[tuple[int, str], ...] = ()


class Tree(Protocol):
    """What can be asked of a tree, be it a folder or a record."""

    @property
    def title(self) -> str: ...
    def paths(self) -> Collection[str]: ...
    def parts(self, path: str) -> Sequence[Part]: ...
    def homes(self, name: str) -> Sequence[tuple[str, Part]]: ...


@dataclass
class Folder:
    """A tree of files. A file is read when something of it is asked. Raises `EngineError` where there is no such tree."""

    root: Path
    _parts: dict[str, list[Part]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.root / "src/llama-arch.cpp").is_file():
            raise EngineError(
                f"{self.root} has no src/llama-arch.cpp: give the root of an engine's source tree"
            )

    @property
    def title(self) -> str:
        return str(self.root)

    @cached_property
    def _texts(self) -> dict[str, str]:
        found = {}
        for folder in _FOLDERS:
            for path in sorted((self.root / folder).rglob("*")):
                if path.suffix in _SUFFIXES and path.is_file():
                    found[path.relative_to(self.root).as_posix()] = path.read_text(errors="replace")
        return found

    def paths(self) -> Collection[str]:
        """All files that rules may come from."""
        return self._texts.keys()

    def text(self, path: str) -> str:
        """A file as it is; nothing where there is none."""
        return self._texts.get(path, "")

    def parts(self, path: str) -> Sequence[Part]:
        """The definitions of a file."""
        if path not in self._parts:
            text = self.text(path)
            written = text.splitlines()
            self._parts[path] = [_part(d, written) for d in definitions(text)]
        return self._parts[path]

    def homes(self, name: str) -> Sequence[tuple[str, Part]]:
        """Every file beginning a line with this name, or a type before it, that defines it."""
        begins = re.compile(rf"^\S[^\n;]*\b{re.escape(name)}\b", re.MULTILINE)
        files = [path for path, text in self._texts.items() if name in text and begins.search(text)]
        return [(path, p) for path in files for p in self.parts(path) if p.name == name]


def _part(found: Definition, written: Sequence[str]) -> Part:
    whole = _digest(" ".join(text for _, text in found.lines), _DIGEST)
    marks = tuple(_digest(text, _MARK) for _, text in found.lines)
    lines = tuple((line, " ".join(written[line - 1].split())) for line, _ in found.lines)
    return Part(found.name, found.start, found.end, whole, marks, lines)


def _digest(text: str, size: int) -> str:
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


@dataclass
class Record:
    """What was recorded of a tree: its definitions, those that were not cited without marks, and tables by name."""

    title: str
    files: Mapping[str, Sequence[Part]]
    tables: Mapping[str, Any] = field(default_factory=dict)

    def paths(self) -> Collection[str]:
        """The files that were recorded."""
        return self.files.keys()

    def parts(self, path: str) -> Sequence[Part]:
        """The definitions of a file, nothing of one that was not recorded."""
        return self.files.get(path, ())

    @cached_property
    def _homes(self) -> Mapping[str, Sequence[tuple[str, Part]]]:
        found: defaultdict[str, list[tuple[str, Part]]] = defaultdict(list)
        for path, parts in self.files.items():
            for part in parts:
                found[part.name].append((path, part))
        return found

    def homes(self, name: str) -> Sequence[tuple[str, Part]]:
        """Every recorded file that defines a name, with the definition."""
        return self._homes.get(name, ())


def save(record: Record, path: Path) -> None:
    """Write a record: a line for each definition, packed, the same bytes for the same record."""
    lines = [json.dumps({"title": record.title, "tables": record.tables}, sort_keys=True)]
    for file, parts in sorted(record.files.items()):
        lines.append(json.dumps({"file": file}))
        lines += [json.dumps([p.name, p.start, p.end, p.digest, "".join(p.marks)]) for p in parts]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))


def load(path: Path) -> Record:
    """Read a record. Raises `EngineError` when the file is none."""
    try:
        first, *rest = gzip.decompress(path.read_bytes()).decode().splitlines()
        head = json.loads(first)
        files: dict[str, list[Part]] = {}
        for row in map(json.loads, rest):
            if isinstance(row, dict):
                parts = files.setdefault(row["file"], [])
            else:
                name, start, end, digest, marks = row
                parts.append(Part(name, start, end, digest, tuple(_cut(marks, 2 * _MARK))))
        return Record(head["title"], files, head["tables"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{path} is no record of a tree: make it again with `record`") from error


def _cut(text: str, size: int) -> Iterator[str]:
    yield from (text[i : i + size] for i in range(0, len(text), size))
