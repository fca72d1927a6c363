"""How many figures equal what the engine allocated, by architecture.

    python benchmarks/accuracy.py FOLDER [--worst N] [--all]

FOLDER holds `rows-*.jsonl.gz` (see docs/engine.md) and the headers that they name. Prints, for each
file of headers, runs whose GPU figures are all exact, and how far totals of devices are off.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import vramfit

MIB = 1 << 20


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("rows-*.jsonl.gz")):
        with gzip.open(path, "rt") as lines:
            yield from map(json.loads, lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--worst", type=int, default=5)
    parser.add_argument("--all", action="store_true", help="list files that are exact throughout, too")
    args = parser.parse_args()
    models: dict[str, vramfit.Model] = {}
    runs: Counter[str] = Counter()
    exact: Counter[str] = Counter()
    notes: dict[str, Counter[str]] = defaultdict(Counter)
    wrong: list[tuple[float, str, Any]] = []
    falsely = 0
    for row in rows(args.folder):
        if "refused" in row:
            continue
        name = row["file"]
        if name not in models:
            models[name] = vramfit.read(args.folder / name)
        cards = [vramfit.Gpu(name=f"gpu{i}", total_bytes=m * MIB) for i, m in enumerate(row["gpus_mib"])]
        found = vramfit.estimate(models[name], cards, vramfit.Settings(**row["settings"]))
        ours = [(d.model, d.context, d.compute) for d in (*found.gpus, found.host)]
        theirs = [(d["model"], d["context"], d["compute"]) for d in (*row["gpus"], row["host"])]
        runs[name] += 1
        exact[name] += ours == theirs
        falsely += found.exact and ours != theirs
        if found.compute_note:
            notes[name][found.compute_note] += 1
        for a, b in zip(ours[:-1], theirs[:-1], strict=True):
            if a != b and sum(b) >= 64 * MIB:
                wrong.append((sum(a) / sum(b) - 1, name, row["settings"]))
    for name in sorted(runs):
        if args.all or exact[name] < runs[name]:
            why = "; ".join(f"{n} × {note}" for note, n in notes[name].most_common(2))
            print(f"{exact[name]:5d} of {runs[name]:5d}  {name}  {why}")
    total, right = sum(runs.values()), sum(exact.values())
    print(
        f"{right} of {total} runs exact in every figure of every device, host included ({right / total:.2%})"
    )
    print(f"{sum(exact[n] == runs[n] for n in runs)} of {len(runs)} files exact throughout")
    print(f"{falsely} runs called exact that are not")
    for error, name, settings in sorted(wrong, key=lambda w: -abs(w[0]))[: args.worst]:
        print(f"{error:+8.2%}  {name}  {settings}")


if __name__ == "__main__":
    main()
