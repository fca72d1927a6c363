"""Prove graphs against the engine's, node for node.

    python -m tools.graphs prove HEADER_OR_FOLDER... [--arch NAME] [--settings JSON]

`--settings` takes one set of settings, such as {"n_ctx": 4096, "gpus_mib": [24564, 12288]}, instead of those that
`cases.SETTINGS` lists; `--only WORDS` those of the list whose name has these words. `--oracle module:function`
names what is asked instead of the engine. Exit status 1 when something differs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from .cases import SETTINGS
from .prove import Oracle, Report, prove


def main() -> int:
    """Run one command; 1 where something differs."""
    args = _parser().parse_args()
    report = Report(sys.stdout, args.show)
    prove(_headers(args.header), _oracle(args.oracle), report, _settings(args.settings, args.only), args.arch)
    return 0 if report.summarize() else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.graphs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    proof = commands.add_parser("prove", help="headers under a set of settings")
    proof.add_argument("header", type=pathlib.Path, nargs="+", help="a GGUF header, or a folder of them")
    proof.add_argument("--arch", default="", help="headers of this architecture only")
    proof.add_argument("--settings", type=json.loads, help="these instead of the list; JSON")
    proof.add_argument("--only", default="", help="settings of the list whose name has these words")
    proof.add_argument("--oracle", default="tools.graphs.live:truths")
    proof.add_argument("--show", type=int, default=1, help="differences of an architecture to print in full")
    return parser


def _oracle(name: str) -> Oracle:
    module, _, function = name.partition(":")
    found: Oracle = getattr(importlib.import_module(module), function)
    return found


def _settings(given: dict[str, Any] | None, only: str) -> Mapping[str, Mapping[str, Any]]:
    if given is not None:
        return {"given": given}
    return {name: own for name, own in SETTINGS.items() if only in name}


def _headers(paths: list[pathlib.Path]) -> Iterator[pathlib.Path]:
    for path in paths:
        if not path.exists():
            raise SystemExit(f"{path}: there is no such file or folder")
        yield from sorted(path.rglob("*.gguf")) if path.is_dir() else [path]


if __name__ == "__main__":
    sys.exit(main())
