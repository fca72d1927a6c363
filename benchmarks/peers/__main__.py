"""Asks other estimates about the rows that `accuracy.py --samples` wrote.

    python -m benchmarks.peers node SAMPLES FOLDER OUT --modules FOLDER_OF_NODE_MODULES
    python -m benchmarks.peers projection SAMPLES FOLDER OUT

`node` asks node-llama-cpp's formula, installed with `npm install --ignore-scripts node-llama-cpp@3.22.1`; it knows one card
that holds all layers, so rows of one card without tensors or caches on the host are asked. `projection` asks the engine's own dry
run, on which its `--fit` rests (docs/internals/engine.md says how to build the engine). OUT gets a line for each sample that was
asked: its number, and the totals of the cards.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]
NODE = Path(__file__).with_name("node_llama_cpp.mjs").resolve()
KNOWN = frozenset(("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_outputs_max", "flash_attn", "type_k", "type_v", "swa_full",
                   "kv_unified"))  # fmt: skip


def is_one_card(sample: Row) -> bool:
    """Whether all layers and caches of a row are on one card, each slot has its own, and flash attention is settled."""
    settings = sample["settings"]
    cards = len(sample["theirs"]) == 2 and sample["backend"] == "cuda" and not settings.get("kv_unified")
    return cards and settings.keys() <= KNOWN and settings.get("flash_attn") in ("on", "off")


def ask_node(samples: list[tuple[int, Row]], folder: Path, modules: Path) -> Iterator[Row]:
    """What node-llama-cpp says of each."""
    jobs = [
        {"path": str(folder / s["file"]), "n_ctx": s["n_ctx"], "settings": s["settings"]} for _, s in samples
    ]
    done = subprocess.run(
        ["node", str(NODE)], input="\n".join(map(json.dumps, jobs)), cwd=modules, capture_output=True, text=True, check=True
    )  # fmt: skip
    for (number, _), line in zip(samples, done.stdout.splitlines(), strict=True):
        card = json.loads(line).get("card")  # null where its formula comes to no number
        yield {"sample": number, **({"refused": line} if card is None else {"cards": [card]})}


def ask_engine(samples: list[tuple[int, Row]], folder: Path) -> Iterator[Row]:
    """What the engine's dry run says of each."""
    os.environ["VRAMFIT_PROJECTION"] = "1"  # before the shim is loaded
    from tools.engine.measure import measure_all

    jobs = []
    for _, s in samples:
        settings = {**s["settings"], "compute_capability": s["compute_capability"]}
        jobs.append(
            {"file": str((folder / s["file"]).resolve()), "gpus_mib": s["gpus_mib"], "settings": settings}
        )
    for (number, _), row in zip(samples, measure_all(jobs), strict=True):
        if "gpus" in row:
            yield {
                "sample": number,
                "cards": [sum(d[k] for k in ("model", "context", "compute")) for d in row["gpus"]],
            }
        else:
            yield {"sample": number, "refused": row.get("refused", row.get("died"))}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peer", choices=("node", "projection"))
    parser.add_argument("samples", type=Path)
    parser.add_argument("folder", type=Path, help="the folder of the rows and headers")
    parser.add_argument("out", type=Path)
    parser.add_argument("--modules", type=Path, default=Path(), help="where node_modules lies")
    args = parser.parse_args()
    every = list(enumerate(map(json.loads, args.samples.read_text().splitlines())))
    if args.peer == "node":
        found = ask_node([(i, s) for i, s in every if is_one_card(s)], args.folder.resolve(), args.modules)
    else:
        found = ask_engine(
            [(i, s) for i, s in every if s["backend"] == "cuda" and s["gpus_mib"]], args.folder
        )
    with args.out.open("w") as out:
        for row in found:
            print(json.dumps(row), file=out)


if __name__ == "__main__":
    main()
