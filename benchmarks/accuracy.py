"""How many figures equal what the engine allocated, by file of rows and by model.

    python benchmarks/accuracy.py FOLDER [--worst N] [--all] [--match REGEX] [--samples FILE]

FOLDER holds `rows-*.jsonl.gz` (see docs/internals/engine.md) and the headers that they name. Prints, for each file of rows,
runs whose figures are all exact, host included, runs that call themselves exact and are not, and devices whose
total is below the engine's; then the models that are not exact throughout, with the reason. `--samples` writes a line
of JSON for each run, of which `accuracy_page.py` makes the tables of docs/reference/accuracy.md.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import vramfit

MIB = 1 << 20
MEASURED_ON = "8.6"  # compute capability of rows that name none


@dataclass
class Tally:
    """What came out for one file of rows, or for one model."""

    runs: int = 0
    exact: int = 0
    falsely: int = 0
    low: int = 0  # devices
    notes: Counter[str] = field(default_factory=Counter)

    def add(self, found: vramfit.Estimate, row: dict[str, Any]) -> None:
        ours, theirs = figures(found, row)
        self.runs += 1
        self.exact += ours == theirs
        self.falsely += found.exact and ours != theirs
        self.low += sum(sum(a) < sum(b) for a, b in zip(ours[:-1], theirs[:-1], strict=True))
        if found.compute_note:
            self.notes[found.compute_note] += 1

    def __str__(self) -> str:
        share = f"{self.exact / max(self.runs, 1):.2%}"
        return (
            f"{self.exact:5d} of {self.runs:5d} exact ({share}), {self.falsely} falsely, {self.low} too low"
        )


def figures(
    found: vramfit.Estimate, row: dict[str, Any]
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Weights, context and compute of each device, the host last: ours and the engine's."""
    ours: list[tuple[int, ...]] = [(d.model, d.context, d.compute) for d in (*found.gpus, found.host)]
    return ours, [(d["model"], d["context"], d["compute"]) for d in (*row["gpus"], row["host"])]


def rows(folder: Path, match: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((*folder.glob("rows-*.jsonl.gz"), *folder.glob("backend-rows-*.jsonl.gz"))):
        with gzip.open(path, "rt") as lines:
            for row in map(json.loads, lines):
                if "refused" not in row and re.search(match, row["file"]):
                    yield path.name, row


def cards(row: dict[str, Any]) -> list[vramfit.Gpu]:
    """The cards of a row. Those of another backend are one card that holds everything, with what its driver reports."""
    capability = str(row.get("compute_capability", MEASURED_ON))
    if "backend" in row:
        limits = {"alignment": row["alignment"], "host_alignment": 64, "max_tensor_bytes": (1 << 32) - 1}
        sizes = [1 << 20] * len(row["gpus"])
        return [vramfit.Gpu(name="gpu", total_bytes=m * MIB, backend=row["backend"], **limits) for m in sizes]
    return [
        vramfit.Gpu(name=f"gpu{i}", total_bytes=m * MIB, compute_capability=capability)
        for i, m in enumerate(row["gpus_mib"])
    ]


def sample(source: str, architecture: str, found: vramfit.Estimate, row: dict[str, Any]) -> dict[str, Any]:
    """What a run was and what came of it: totals of the devices, ours and the engine's."""
    ours, theirs = figures(found, row)
    return {
        "rows": source, "file": row["file"], "architecture": architecture, "settings": row["settings"],
        "backend": row.get("backend", "cuda"), "n_ctx": row["n_ctx"], "gpus_mib": row.get("gpus_mib", []),
        "compute_capability": row.get("compute_capability", MEASURED_ON), "exact": ours == theirs,
        "falsely": found.exact and ours != theirs, "ours": [sum(a) for a in ours], "theirs": [sum(b) for b in theirs],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--worst", type=int, default=5)
    parser.add_argument("--match", default="", help="models whose file matches this pattern")
    parser.add_argument("--all", action="store_true", help="list models that are exact throughout, too")
    parser.add_argument("--samples", type=Path, help="a file for a line of JSON about each run")
    args = parser.parse_args()
    out = args.samples.open("w") if args.samples else None
    models: dict[str, vramfit.Model] = {}
    by_rows: defaultdict[str, Tally] = defaultdict(Tally)
    by_model: defaultdict[str, Tally] = defaultdict(Tally)
    wrong: list[tuple[float, str, Any]] = []
    for source, row in rows(args.folder, args.match):
        name = row["file"]
        if name not in models:
            models[name] = vramfit.read(args.folder / name)
        found = vramfit.estimate(models[name], cards(row), vramfit.Settings(**row["settings"]))
        by_rows[source].add(found, row)
        if out:
            print(json.dumps(sample(source, models[name].architecture, found, row)), file=out, flush=True)
        by_model[name].add(found, row)
        for a, b in zip(*(side[:-1] for side in figures(found, row)), strict=True):
            if a != b and sum(b) >= 64 * MIB:
                wrong.append((sum(a) / sum(b) - 1, name, row["settings"]))
    for source, tally in by_rows.items():
        print(f"{tally}  {source}")
    for name, tally in sorted(by_model.items()):
        if args.all or tally.exact < tally.runs:
            why = "; ".join(f"{n} × {note}" for note, n in tally.notes.most_common(2))
            print(f"{tally}  {name}  {why}")
    for error, name, settings in sorted(wrong, key=lambda w: -abs(w[0]))[: args.worst]:
        print(f"{error:+8.2%}  {name}  {settings}")


if __name__ == "__main__":
    main()
