"""Prove graphs against the engine's, node for node.

    python -m tools.graphs prove HEADER_OR_FOLDER... [--arch NAME] [--settings JSON]

`--settings` takes one set of settings, such as {"n_ctx": 4096, "gpus_mib": [24564, 12288]}, instead of those that
`cases.SETTINGS` lists; `--only WORDS` those of the list whose name has these words. `--oracle module:function`
names what is asked instead of the engine. `--next-tokens` proves the context of the next-token layers instead of the model's,
`--go-back N` the model with N recurrent states to go back to, `--adapters KIND` ("lora", "control vector") with such. Exit status 1 when something differs.

    python -m tools.graphs campaign --arch qwen3moe --seed 1 --runs 50 [--headers HEADER_OR_FOLDER...] [--keep FOLDER]

Random headers around those given, and around models that the engine makes (`--no-make`: not these, so that no engine
is needed). A run that differs is found again with `--seed`, `--first` and one run; its header, with no more edits than
it takes, is kept in the folder that `--keep` names.

    python -m tools.graphs record [HEADER...]

Makes a small header of every architecture, or of those named, and digests of the engine's graphs for it: `tests/data/builders`.
`--next-tokens` records digests of the headers in `tests/data/company` instead, as contexts of their next-token layers;
`--states` those of graphs with recurrent states to go back to, `--adapters` those of graphs with adapters.

    python -m tools.graphs keys HEADER_OR_FOLDER...

Names header keys that a builder reads although the engine does not load them for the architecture. Exit status 1 when there are any.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from tools.engine.adapters import KINDS
from tools.engine.binding import source_dir
from vramfit._base.errors import VramfitError

from .campaign import Campaign, run
from .cases import SETTINGS, beside, read
from .keys import false_switches
from .prove import Oracle, Report, prove


def main() -> int:
    """Run one command; 1 where something differs."""
    args = _parser().parse_args()
    if args.command == "record":
        return _record(args)
    if args.command == "keys":
        return _keys(args.header)
    report = Report(sys.stdout, args.show)
    oracle, settings = _oracle(args.oracle), _settings(args.settings, args.only)
    if args.next_tokens:
        settings = beside(settings, next_tokens=True)
    if args.adapters:
        settings = beside(settings, adapters=args.adapters)
    if args.go_back:
        settings = beside(settings, spec_type="draft-eagle3", spec_draft_n_max=args.go_back)
    if args.command == "prove":
        prove(_headers(args.header), oracle, report, settings, args.arch)
    else:
        headers = [path for path in _headers(args.headers) if _is_of(path, args.arch)]
        campaign = Campaign(args.arch, args.seed, oracle, headers, args.make, args.keep, settings)
        run(campaign, report, range(args.first, args.first + args.runs))
    return 0 if report.summarize() else 1


def _record(args: argparse.Namespace) -> int:
    from .record import record, record_adapters, record_next_tokens, record_states

    if args.adapters:
        record_adapters()
    if args.next_tokens:
        record_next_tokens()
    if args.states:
        record_states()
    if not (args.next_tokens or args.states or args.adapters):
        record(chosen=frozenset(args.header))
    return 0


def _keys(headers: list[pathlib.Path]) -> int:
    """Print what builders read in vain; 1 where there is any."""
    source, found = source_dir(), 0
    for path in _headers(headers):
        try:
            model = read(path)
        except VramfitError as e:
            print(f"{path}: not read: {e}")
            continue
        for key in false_switches(model, path, source):
            found += 1
            print(f"{path}: {model.architecture}.{key} is not loaded by the engine")
    return 1 if found else 0


def _is_of(path: pathlib.Path, architecture: str) -> bool:
    try:
        return read(path).architecture == architecture
    except VramfitError:
        return False


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
    campaign = commands.add_parser("campaign", help="random headers of an architecture")
    campaign.add_argument("--arch", required=True)
    campaign.add_argument("--seed", default="1")
    campaign.add_argument("--runs", type=int, default=20)
    campaign.add_argument("--first", type=int, default=0, help="the number of the first run")
    campaign.add_argument(
        "--headers", type=pathlib.Path, nargs="*", default=[], help="headers, or folders of them"
    )
    campaign.add_argument("--no-make", dest="make", action="store_false", help="vary the headers alone")
    campaign.add_argument("--keep", type=pathlib.Path, help="a folder for the headers that differ")
    recording = commands.add_parser("record", help="digests of the engine's graphs, for the tests")
    recording.add_argument("header", nargs="*", help="an architecture, or the name of a recorded header")
    recording.add_argument("--next-tokens", action="store_true", help="contexts of next-token layers")
    recording.add_argument("--states", action="store_true", help="graphs with states to go back to")
    recording.add_argument("--adapters", action="store_true", help="graphs with adapters")
    keys = commands.add_parser("keys", help="header keys that builders read and the engine does not")
    keys.add_argument("header", type=pathlib.Path, nargs="+", help="a GGUF header, or a folder of them")
    for command in (proof, campaign):
        _add_common(command)
    return parser


def _add_common(proof: argparse.ArgumentParser) -> None:
    proof.add_argument("--settings", type=json.loads, help="these instead of the list; JSON")
    proof.add_argument("--only", default="", help="settings of the list whose name has these words")
    proof.add_argument("--oracle", default="tools.graphs.live:truths")
    proof.add_argument("--next-tokens", action="store_true", help="the context of the next-token layers")
    proof.add_argument(
        "--adapters", choices=KINDS, default="", help="with an adapter for every matrix, or a vector"
    )
    proof.add_argument("--go-back", type=int, default=0, help="recurrent states to go back to")
    proof.add_argument("--show", type=int, default=1, help="differences of an architecture to print in full")


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
