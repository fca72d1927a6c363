"""The index of printed loads (tests/data/logs/printed.json), what is read of each, and how it stands beside a header.

An entry has the log's name, the engine, the year and the backend that printed it, where it was found, the build where
that stood beside the log, the published header it is a load of, and the figures in MiB that a person read in it.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import vramfit
from vramfit._logs import HOST, lines_of, read_loads
from vramfit._verify import Verification, verify

ROOT = Path(__file__).parents[2] / "tests" / "data" / "logs"
MIB = 1 << 20
KEPT = {"qwen35--Qwen3.6-27B": "qwen3.6-27b"}  # headers beside the logs, by the names of published ones
KINDS = ("model", "context", "compute", "output")


@dataclass(frozen=True)
class Entry:
    """One printed load."""

    log: str
    engine: str
    year: int
    backend: str
    source: str
    build: str
    model: str
    parsed: dict[str, dict[str, float]]

    @property
    def path(self) -> Path:
        return ROOT / "printed" / f"{self.log}.log"


def entries() -> list[Entry]:
    """The index, by engine, year and backend."""
    known = {f.name for f in fields(Entry)}
    rows = json.loads((ROOT / "printed.json").read_text())
    found = [Entry(**{k: v for k, v in row.items() if k in known}) for row in rows]
    return sorted(found, key=lambda e: (e.engine, e.year, e.backend, e.log))


def parsed_of(path: Path) -> dict[str, dict[str, float]]:
    """The figures of the one load in a log, in MiB, by device and kind."""
    with path.open("rb") as file:
        loads = list(read_loads(lines_of(file)))
    if len(loads) != 1:
        raise SystemExit(f"{path}: {len(loads)} loads; keep one")
    load = loads[0]
    found = {
        place: {k: round(s.middle / MIB, 2) for k in KINDS if (s := load.sizes(place, k))}
        for place in (*load.places, HOST)
    }
    return {place: kinds for place, kinds in found.items() if kinds}


def compared(entry: Entry, headers: Path | None) -> Verification | str:
    """The estimate beside a log, or why there is none."""
    if not entry.model:
        return "no header"
    model = _header(entry.model, headers)
    if model is None:
        return "header not here"
    over: dict[str, Any] = {"engine_build": entry.build} if entry.build else {}
    try:
        return verify(model, entry.path, over, causes=False)
    except vramfit.VramfitError as e:
        return str(e).split(":", maxsplit=1)[0][:40]


def _header(name: str, headers: Path | None) -> vramfit.Model | None:
    kept = ROOT / f"{KEPT.get(name, name)}.gguf.gz"
    if kept.is_file():
        return vramfit.read(gzip.decompress(kept.read_bytes()))
    file = headers / f"{name}.gguf" if headers else None
    return vramfit.read(file) if file and file.is_file() else None


def table(rows: list[tuple[Entry, Verification | str]]) -> str:
    """A line for each log: what was read of it, and what agrees."""
    head = ("engine", "year", "backend", "log", "read", "context", "compute", "total")
    body = [(e.engine, str(e.year), e.backend, e.log, _read(e), *_agreement(found)) for e, found in rows]
    widths = [max(len(row[i]) for row in (head, *body)) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *body)
    ]
    return "\n".join([*lines, "", _sums(rows)])


def _read(entry: Entry) -> str:
    kinds = {k for found in entry.parsed.values() for k in found}
    return f"{len(entry.parsed)} devices: {', '.join(k for k in KINDS if k in kinds)}"


def _agreement(found: Verification | str) -> tuple[str, str, str]:
    """Whether caches and compute buffers of the cards are as printed, and the worst ratio of a device's total.

    What is not judged, such as weights of another quantization, counts as measured.
    """
    if isinstance(found, str):
        return found, "", ""
    rows = [r for r in found.rows if r.device != HOST] or list(found.rows)
    said = []
    for kind in ("context", "compute"):
        own = [r for r in rows if r.kind == kind]
        off = [f"{r.ratio:.4f}" for r in own if not r.agrees and r.ratio]
        said.append("" if not own else "as printed" if not off else " ".join(dict.fromkeys(off))[:30])
    return said[0], said[1], f"{_worst(found):.4f}" if found.verdict != "unchecked" else found.verdict


def _worst(found: Verification) -> float:
    ratios = [1.0]
    for device in found.devices:
        rows = [r for r in found.rows if r.device == device and (r.judged or device != HOST)]
        theirs = sum(r.measured.middle for r in rows)
        if theirs and device != HOST:
            ratios.append(sum(r.estimate if r.judged else r.measured.middle for r in rows) / theirs)
    return max(ratios, key=lambda x: abs(x - 1))


def _sums(rows: list[tuple[Entry, Verification | str]]) -> str:
    found = [f for _, f in rows if not isinstance(f, str) and f.verdict not in ("unchecked", "other model")]
    near = [f for f in found if abs(_worst(f) - 1) <= 0.01]
    low = [f for f in found if _worst(f) < 0.99]
    exact = [f for f in found if f.agrees]
    return (
        f"{len(rows)} logs read; {len(found)} beside a header: {len(exact)} as printed in every figure that is judged,"
        f" {len(near)} with every device's total within 1 %, {len(low)} lower by more"
    )
