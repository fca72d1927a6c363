"""A graph → a short digest, equal where `compare.first_difference` finds nothing.

What a digest holds of each tensor is what `compare` compares: operation, layout, sources and root of a view by
position or role, offset, flags, pin, and the parameters that a rule of a backend reads. Names of nodes do not count.
"""

from __future__ import annotations

import gzip
import hashlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from vramfit._ggml.graph import NONE, WEIGHT, Graph, Tensor

from .compare import MARKS, asked, inputs

__all__ = ["FOLDER", "Recorded", "digest", "digests", "header_of", "lines", "names", "write"]

FOLDER: Final = pathlib.Path(__file__).parents[2] / "tests" / "data" / "builders"
_BYTES: Final = 5  # of a digest: enough to tell a graph from another, not to sign it
_FILE: Final = "digests.tsv"


class Recorded(NamedTuple):
    """The digest of a graph of the engine's, and the operations that it had fused; None where all that it could."""

    digest: str
    fused: tuple[str, ...] | None = None


def digest(graph: Graph, pins: bool = True) -> str:
    """The digest of a graph; without `pins`, wherever its nodes are pinned to."""
    found = hashlib.blake2b(digest_size=_BYTES)
    for line in lines(graph, pins):
        found.update(line.encode())
        found.update(b"\n")
    return found.hexdigest()


def lines(graph: Graph, pins: bool = True) -> Iterator[str]:
    """One line an input, then one a node."""
    role: dict[int, str] = {}
    for number, i in enumerate(inputs(graph)):
        t = graph.tensors[i]
        role[i] = f"input {number}"
        yield f"{_layout(t)} {t.flags & MARKS}"
    for number, i in enumerate(graph.nodes):
        role[i] = f"#{number}"
        yield _node(graph, i, role, pins)


def _node(graph: Graph, i: int, role: dict[int, str], pins: bool) -> str:
    t = graph.tensors[i]
    sources = ", ".join(_role(graph, s, role) for s in t.src)
    view = "" if t.view == NONE else f" in {_role(graph, t.view, role)}+{t.offset}"
    pinned = t.pinned if pins else NONE
    return f"{t.op} {_layout(t)} ({sources}){view} {t.flags & MARKS} {pinned} {asked(t)}"


def _role(graph: Graph, i: int, role: dict[int, str]) -> str:
    """What a source is: a node by its position, an input by its place, a weight by its name, a cache by its first use."""
    t = graph.tensors[i]
    if t.usage == WEIGHT:  # the engine may have a second copy in other memory of one device
        return f"{t.name} {_layout(t)} {max(t.home, NONE)}"
    if i not in role:
        role[i] = f"{t.usage} {t.op} {len(role)} {_layout(t)} {max(t.home, NONE)}"
    return role[i]


def _layout(t: Tensor) -> str:
    return f"{t.type.name} {tuple(t.ne)} {tuple(t.nb)}"


# -- what was recorded


def names(folder: pathlib.Path = FOLDER) -> list[str]:
    """Headers that digests were recorded for: architectures, some with what kind of model."""
    return sorted(path.name.removesuffix(".gguf.gz") for path in folder.glob("*.gguf.gz"))


def header_of(name: str, folder: pathlib.Path = FOLDER) -> bytes:
    """The bytes of a recorded header."""
    return gzip.decompress((folder / f"{name}.gguf.gz").read_bytes())


def digests(folder: pathlib.Path = FOLDER, file: str = _FILE) -> Mapping[str, Mapping[str, list[Recorded]]]:
    """By header and settings, the graphs of the reservations; none where the engine refuses the settings."""
    first, *rest = (folder / file).read_text().splitlines()
    settings = first.split("\t")[1:]
    found: dict[str, Mapping[str, list[Recorded]]] = {}
    for line in rest:
        name, *cells = line.split("\t")
        found[name] = {
            s: [_recorded(x) for x in cell.split()] for s, cell in zip(settings, cells, strict=True)
        }
    return found


def write(
    found: Mapping[str, Mapping[str, list[Recorded]]], folder: pathlib.Path = FOLDER, file: str = _FILE
) -> None:
    """Write digests as `digests` reads them."""
    settings = list(next(iter(found.values())))
    rows = [["header", *settings]]
    for name, cells in sorted(found.items()):
        rows.append([name, *(" ".join(map(_text, cells[s])) for s in settings)])
    (folder / file).write_text("".join("\t".join(row) + "\n" for row in rows))


def _text(one: Recorded) -> str:
    return one.digest if one.fused is None else "+".join((one.digest, *one.fused))


def _recorded(text: str) -> Recorded:
    value, *fused = text.split("+")
    return Recorded(value, tuple(fused) or None)
