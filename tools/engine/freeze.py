"""Frozen reservations: the files of `tests/data/graphs`, measured again.

The first line of a file says which header, devices and settings; `freeze` measures those and writes the
rest anew, in the format that `tests/traces.py` describes and reads.
"""

from __future__ import annotations

import gzip
import json
import pathlib
from collections.abc import Iterable, Iterator

from vramfit._ggml.graph import HOST, NONE

from .binding import engine
from .load import type_id
from .reserve import Reservation, reservations
from .trace import INPUT, OUTPUT, Node

PASSES = 2  # the third reservation repeats the first
_PLACES = {NONE: "-", HOST: "host"}


def freeze(file: pathlib.Path, truth: pathlib.Path) -> None:
    """Measure a frozen file again, its header below `truth`. Raises Refused."""
    with gzip.open(file, "rt") as old:
        first = old.readline()
    head = json.loads(first)
    settings = head["settings"]
    if not head["gpus_mib"]:  # or the engine takes all layers as offloaded, and pins more to its only backend
        settings = {"n_gpu_layers": 0} | settings
    done = reservations(truth / head["file"], head["gpus_mib"], **settings)
    text = first + "".join("\n".join(_lines(r)) + "\n" for r in done[:PASSES])
    file.write_bytes(gzip.compress(text.encode(), mtime=0))


def _lines(r: Reservation) -> Iterator[str]:
    yield "\t".join(map(str, ("graph", r.n_copies, r.n_splits, *r.n_bytes)))
    for kind, order in (("leaf", r.graph.leafs), ("node", r.graph.nodes)):
        for i in order:
            yield "\t".join((kind, *_fields(r.graph.tensors[i])))


def _fields(t: Node) -> Iterator[str]:
    yield from (t.name, t.op, t.type, _list(t.ne), "" if _is_contiguous(t) else _list(t.nb), _list(t.src))
    yield "" if t.view == NONE else f"{t.view}+{t.offset}"
    yield from (str(t.flags & (INPUT | OUTPUT)), str(t.usage))
    yield from (_PLACES.get(t.home, str(t.home)), _PLACES.get(t.pinned, str(t.pinned)))
    last = max((i for i, word in enumerate(t.params) if word), default=-1)
    yield _list(t.params[: last + 1])


def _list(numbers: Iterable[int]) -> str:
    return ",".join(map(str, numbers))


def _is_contiguous(t: Node) -> bool:
    kind = type_id(t.type)
    size = engine().ggml_type_size(kind)
    row = size * t.ne[0] // engine().ggml_blck_size(kind)
    return t.nb == (size, row, row * t.ne[1], row * t.ne[1] * t.ne[2])
