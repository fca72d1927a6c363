"""`python -m tools.engine`: measure a header, draw random rows, trace a graph, make a model.

    python -m tools.engine measure x.gguf --gpus 24564,12288 n_ctx=8192 flash_attn=on
    python -m tools.engine rows FOLDER --seed 1 --match 'qwen|llama'
    python -m tools.engine trace x.gguf n_ctx=8192 > graph.txt
    python -m tools.engine reserve x.gguf --gpus 24564,12288 n_ctx=8192 compute_capability=8.9 > blocks.txt
    python -m tools.engine freeze tests/data/graphs --headers FOLDER
    python -m tools.engine prove vulkan FOLDER --rows 300 --seed 1 --keep rows.jsonl
    python -m tools.engine vulkan FOLDER
    python -m tools.engine make qwen3moe x.gguf n_embd=512 n_layer=24 --types q4_k

Settings and dimensions are given as name=value, the values as JSON or plain words.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import sys
from typing import Any

from .binding import source_dir
from .freeze import freeze
from .measure import Row, measure, serve
from .metadata import Dims
from .models import ARCHITECTURES, make_model
from .reserve import blocks_to_text, reservations
from .sample import draw_rows_of_model, write_rows
from .trace import to_text, trace
from .vulkan import VARIABLE, build


def main() -> None:
    """Parse the command line and run one command."""
    parser = _parser()
    args, pairs = parser.parse_known_args()
    if odd := [pair for pair in pairs if "=" not in pair or pair.startswith("-")]:
        parser.error(f"not understood: {' '.join(odd)}")
    values = _values(pairs)
    if args.command == "worker":
        serve(sys.stdin, sys.stdout, _work)
    elif args.command == "measure":
        print(json.dumps(measure(args.file, args.gpus, values), indent=1))
    elif args.command == "trace":
        print(to_text(trace(args.file, args.gpus, **values)[args.reservation]), end="")
    elif args.command == "reserve":
        chosen = reservations(args.file, args.gpus, **values)[args.reservation]
        print(f"copies {chosen.n_copies}, splits {chosen.n_splits}, bytes {chosen.n_bytes}")
        print(blocks_to_text(chosen), end="")
    elif args.command == "freeze":
        for file in sorted(args.folder.glob("*.txt.gz")):
            freeze(file, args.headers)
    elif args.command == "prove":
        from .prove import prove  # of all commands this one alone needs vramfit

        headers = sorted(p for folder in args.folders for p in folder.rglob("*.gguf"))
        for line in prove(args.backend, headers, args.rows, args.seed, args.keep):
            print(line, flush=True)
    elif args.command == "vulkan":
        print(f"{VARIABLE}={build(source_dir(), args.folder, args.jobs)}")
    elif args.command == "make":
        make_model(args.architecture, args.file, Dims(**values), types=args.types)
    else:
        architectures = [a for a in ARCHITECTURES if re.search(args.match, a)]
        for architecture, reason in write_rows(
            args.folder, architectures, args.seed, args.models, args.rows
        ).items():
            print(f"{architecture}: {reason}")


def _work(job: Row) -> Row:
    return (
        draw_rows_of_model(job) if "draw" in job else measure(job["file"], job["gpus_mib"], job["settings"])
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.engine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("worker", help="measure jobs from standard input (JSON lines)")
    for name, words in (
        ("measure", "bytes of one model and context"),
        ("trace", "the graph of one reservation"),
        ("reserve", "what the allocator is given for it, with the block of each tensor"),
    ):
        command = commands.add_parser(name, help=words)
        command.add_argument("file")
        command.add_argument("--gpus", type=_numbers, default=[], help="MiB of each device: 24564,12288")
        if name != "measure":
            command.add_argument(
                "--reservation", type=int, default=0, help="0 prompt, 1 generation, 2 prompt again"
            )
    frozen = commands.add_parser("freeze", help="measure the files of tests/data/graphs again")
    frozen.add_argument("folder", type=pathlib.Path)
    frozen.add_argument(
        "--headers", type=pathlib.Path, required=True, help="the folder that they name headers in"
    )
    proof = commands.add_parser("prove", help="estimates against the engine on devices of a backend")
    proof.add_argument("backend", help="cuda, hip, vulkan, real-vulkan, metal or sycl")
    proof.add_argument("folders", type=pathlib.Path, nargs="+", help="folders of headers")
    proof.add_argument("--rows", type=int, default=100)
    proof.add_argument("--seed", type=int, default=1)
    proof.add_argument("--keep", type=pathlib.Path, help="a file for the measured rows")
    real = commands.add_parser("vulkan", help="build the real Vulkan backend: half an hour on one core")
    real.add_argument("folder", type=pathlib.Path)
    real.add_argument("--jobs", type=int, default=1)
    make = commands.add_parser("make", help="a header of a small model")
    make.add_argument("architecture")
    make.add_argument("file")
    make.add_argument("--types", default="f32")
    rows = commands.add_parser("rows", help="random models and rows for compare.py --base FOLDER")
    rows.add_argument("folder", type=pathlib.Path)
    rows.add_argument("--seed", type=int, default=1)
    rows.add_argument("--models", type=int, default=3, help="models of each architecture")
    rows.add_argument("--rows", type=int, default=5, help="rows of each model")
    rows.add_argument("--match", default="", help="a pattern of architectures")
    return parser


def _numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",") if n]


def _values(pairs: list[str]) -> dict[str, Any]:
    values = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            values[name] = json.loads(text)
        except json.JSONDecodeError:
            values[name] = text
    return values


if __name__ == "__main__":
    main()
