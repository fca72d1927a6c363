"""Writes the measured tables of docs/reference/accuracy.md.

    python benchmarks/accuracy.py FOLDER --samples SAMPLES
    python -m benchmarks.peers projection SAMPLES FOLDER PROJECTION
    python -m benchmarks.accuracy_page SAMPLES [--peer "NAME=FILE"]... [--headers HEADERS] [--page PAGE]

SAMPLES holds a line for each run, a FILE what another estimate says of some of them. Each table stands between
`<!-- begin NAME -->` and `<!-- end NAME -->`; the rest of the page is as a person wrote it. A table whose figures were not given
(peers; printed logs, which need headers of published models) stays as it is. The share of a device's total that an estimate is off is taken over devices of 64 MiB and more.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import vramfit

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs/reference/accuracy.md"
LOGS: Final = ROOT / "tests/data/logs"
MIB: Final = 1 << 20
LARGE: Final = 64 * MIB
Sample = Mapping[str, Any]
HEAD: Final = ("runs", "exact", "off: median", "p95", "worst", "devices too low")


def devices(sample: Sample, ours: Sequence[int] | None = None) -> Iterator[tuple[int, int]]:
    """Ours and the engine's total of each card; the host's where there is none."""
    mine, theirs = sample["ours"] if ours is None else ours, sample["theirs"]
    cards = len(theirs) - 1
    yield from zip(mine[:cards] if cards else mine, theirs[:cards] if cards else theirs, strict=True)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def figures(samples: Sequence[Sample]) -> list[str]:
    """The cells of `HEAD`."""
    off = [a / b - 1 for s in samples for a, b in devices(s) if b >= LARGE]
    low = sum(a < b for s in samples for a, b in devices(s))
    exact = sum(s["exact"] for s in samples)
    return [f"{len(samples):,}", share(exact, len(samples)), *offs(off), str(low)]


def offs(off: Sequence[float]) -> list[str]:
    """Median and p95 of how far off, and the worst with its sign."""
    if not off:
        return ["", "", ""]
    sizes = [abs(x) for x in off]
    worst = max(off, key=abs)
    return [
        percent(quantile(sizes, 0.5)),
        percent(quantile(sizes, 0.95)),
        percent(worst, "+") if worst else "0",
    ]


def percent(value: float, sign: str = "") -> str:
    """A share with as many digits as it needs: 0, 0.02 %, 12 %."""
    size = round(abs(value), 6)
    digits = 0 if size >= 0.1 else 1 if size >= 0.01 else 2
    return f"{100 * value:{sign}.{digits}f} %" if value else "0"


def share(part: int, whole: int) -> str:
    """A share that says 100 % only of all."""
    return "100 %" if part == whole else f"{min(99.99, 100 * part / max(whole, 1)):.2f} %"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as the pages have it."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def grouped(samples: Iterable[Sample], key: Callable[[Sample], Iterable[str]]) -> dict[str, list[Sample]]:
    """Samples by each of their keys, in the order of the names."""
    found: defaultdict[str, list[Sample]] = defaultdict(list)
    for s in samples:
        for name in key(s):
            found[name].append(s)
    return dict(sorted(found.items()))


def by_architecture(samples: Sequence[Sample]) -> str:
    """A row for each architecture that is not exact throughout; the others in one line each."""
    groups = grouped(samples, lambda s: [s["architecture"]])
    whole = {name: rows for name, rows in groups.items() if all(s["exact"] for s in rows)}
    rest = table(
        ("architecture", *HEAD), ([f"`{n}`", *figures(r)] for n, r in groups.items() if n not in whole)
    )
    said = ", ".join(f"`{name}` {len(rows)}" for name, rows in whole.items())
    n = sum(map(len, whole.values()))
    first = f"Exact in every figure of every run, {len(whole)} architectures in {n:,} runs: {said}."
    return f"{first}\n\n{rest}" if len(whole) < len(groups) else first


def traits(sample: Sample) -> Iterator[str]:
    """What settings a run has, in words that sort as they are told."""
    s, cards = sample["settings"], len(sample["theirs"]) - 1
    yield f"cards: {min(cards, 3)}{' or more' if cards > 2 else ''}"
    yield f"flash attention: {s.get('flash_attn', 'auto')}"
    kinds = {s.get("type_k", "f16"), s.get("type_v", "f16")}
    yield f"cache: {'quantized' if kinds - {'f16', 'f32', 'bf16'} else 'f16, bf16 or f32'}"
    slots = s.get("n_seq_max", 1)
    yield f"slots: {'one' if slots == 1 else 'several, one cache' if s.get('kv_unified') else 'several, a cache each'}"
    yield f"layers: {'all' if s.get('n_gpu_layers', -1) < 0 else 'as many as n_gpu_layers says'}"
    yield f"batch: {'512' if s.get('n_ubatch', 512) == 512 else 'another'}"
    yield f"logits: {'of the outputs that are kept' if s.get('n_outputs_max') else 'of the whole batch'}"
    if s.get("cpu_tensors"):
        yield "on the host: some tensors"
    if not s.get("offload_kqv", True):
        yield "on the host: caches"
    if s.get("tensor_split"):
        yield "split: as tensor_split says"


def by_backend(samples: Sequence[Sample]) -> str:
    """Which figures are of which backend."""
    names = {
        "cuda": "CUDA, its own functions",
        "vulkan": "Vulkan, the real backend on Mesa's software device",
    }
    rows = grouped(samples, lambda s: [names.get(str(s["backend"]), str(s["backend"]))])
    return table(("backend", *HEAD), ([name, *figures(of_it)] for name, of_it in rows.items()))


def by_setting(samples: Sequence[Sample]) -> str:
    """A row for each trait."""
    return table(
        ("setting", *HEAD), ([name, *figures(of_it)] for name, of_it in grouped(samples, traits).items())
    )


def by_rows(samples: Sequence[Sample]) -> str:
    """A row for each file of rows, and how many called themselves exact and were not."""
    words = {
        "rows-arch": "architecture fixtures", "rows-models": "shapes of published models",
        "rows-published": "published models, with the keys and tensors that the converter writes",
        "rows-cc": "compute capabilities from 6.1 to 12.0", "backend-rows-vulkan": "Vulkan",
    }  # fmt: skip
    cells = []
    for name, of_it in grouped(samples, lambda s: [s["rows"].partition(".")[0]]).items():
        falsely = sum(s["falsely"] for s in of_it)
        cells.append([words.get(name, name), *figures(of_it), str(falsely)])
    return table(("rows", *HEAD, "called exact and not"), cells)


def peers(samples: Sequence[Sample], answers: Mapping[str, Path]) -> str:
    """Others on the runs that they were asked about, by the type of the caches, and ours on the same runs."""
    rows = []
    for name, path in answers.items():
        said = [json.loads(line) for line in path.read_text().splitlines()]
        known = [(samples[row["sample"]], [*row["cards"], 0]) for row in said if "cards" in row]
        for kind in ("f16, bf16 or f32", "quantized"):
            of_it = [(s, cards) for s, cards in known if f"cache: {kind}" in traits(s)]
            asked = sum(f"cache: {kind}" in traits(samples[row["sample"]]) for row in said)
            answered = f"{len(of_it):,} of {asked:,}"
            rows.append(
                [name, kind, answered, *compared([p for s, cards in of_it for p in devices(s, cards)])]
            )
        rows.append(
            [
                "vramfit, the same runs",
                "all",
                f"{len(known):,}",
                *compared([p for s, _ in known for p in devices(s)]),
            ]
        )
    return table(
        ("estimate", "caches", "runs answered", "devices exact", *HEAD[2:5], "devices too low"), rows
    )


def compared(pairs: Sequence[tuple[int, int]]) -> list[str]:
    """How many devices are equal, how far off, and how many too low."""
    off = [a / b - 1 for a, b in pairs if b >= LARGE]
    low = sum(a < b for a, b in pairs)
    return [
        share(sum(a == b for a, b in pairs), len(pairs)),
        *offs(off),
        share(low, len(pairs)) if low else "0",
    ]


def loads() -> str:
    """What builds printed on real cards: cache and compute of all cards, with the build said and without."""
    cells = []
    for load in json.loads((LOGS / "loads.json").read_text()):
        if not isinstance(load["model"], str):
            continue
        model = vramfit.read(gzip.decompress((LOGS / f"{load['model']}.gguf.gz").read_bytes()))
        cards = [vramfit.Gpu(name="card", total_bytes=1 << 40, compute_capability=load["capability"])] * len(
            load["gpus"]
        )
        printed = sum(g["context"] + g["compute"] for g in load["gpus"])
        ours = [
            sum(
                g.context + g.compute
                for g in vramfit.estimate(
                    model, cards, vramfit.Settings(**load["settings"], engine_build=b)
                ).gpus
            )
            for b in (load["build"], "")
        ]
        source = load["source"].removeprefix("printed by ").partition(";")[0]
        cells.append(
            [
                source,
                f"{printed:,.2f}",
                *(f"{x / MIB:,.2f} ({percent(x / MIB / printed - 1, '+')})" for x in ours),
            ]
        )
    return table(("load", "printed, MiB", "with its build", "as the pinned build"), cells)


def printed(headers: Path) -> str:
    """What programs printed of models whose headers are at hand, beside the plan of that build (tools/logs)."""
    from tools.logs.collection import compared as beside
    from tools.logs.collection import entries
    from tools.logs.collection import table as lines_of

    rows = [(entry, beside(entry, headers)) for entry in entries()]
    text = lines_of([(entry, found) for entry, found in rows if not isinstance(found, str)])
    return "\n".join(("```text", *(line.rstrip() for line in text.splitlines()), "```"))


def written(page: str, blocks: Mapping[str, str]) -> str:
    """The page with these blocks. Raises `SystemExit` for one that the page has no place for."""
    for name, text in blocks.items():
        marked = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        found = marked.search(page)
        if not found:
            raise SystemExit(f"the page has no <!-- begin {name} --> … <!-- end {name} -->")
        page = f"{page[: found.end(1)]}{text}\n{page[found.start(2) :]}"
    return page


def blocks(
    samples: Sequence[Sample], answers: Mapping[str, Path], headers: Path | None = None
) -> dict[str, str]:
    """All tables, by name."""
    cuda = [s for s in samples if s["backend"] == "cuda"]
    found = {
        "rows": by_rows(samples), "backends": by_backend(samples), "settings": by_setting(cuda),
        "architectures": by_architecture(cuda), "loads": loads(),
    }  # fmt: skip
    if answers:
        found["peers"] = peers(samples, answers)
    if headers:
        found["printed"] = printed(headers)
    return found


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("samples", type=Path)
    parser.add_argument("--peer", action="append", default=[], help="NAME=FILE")
    parser.add_argument("--headers", type=Path, help="headers of published models (tools/published)")
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args(words)
    samples = [json.loads(line) for line in args.samples.read_text().splitlines()]
    answers = {name: Path(file) for name, _, file in (p.rpartition("=") for p in args.peer)}
    args.page.write_text(written(args.page.read_text(), blocks(samples, answers, args.headers)))


if __name__ == "__main__":
    main()
