"""Says what another build of the engine does otherwise than the one that the library follows.

    python -m tools.nextbuild show TREE [--old TREE] [--lines N]

TREE is the root of an engine's source tree. Prints which definitions that the library cites changed, with who cites them and
the lines that are new; architectures that are new, gone and changed, with the first difference of each; header keys, tensor
names, flags and models of the converter. Lines that are gone have a text only where `--old` names the old tree's files; without
it the old tree is what was recorded of the build that the library follows, and nothing else is needed.

    python -m tools.nextbuild prove TREE --libraries FOLDER [--build b11549] [--arch NAME]

Where TREE is built and FOLDER holds its libllama.so: proves every builder node for node, and every estimate byte for byte, over
the headers in tests/data/builders, and prints the first difference of each. Exit status 1 where something differs.

    python -m tools.nextbuild record TREE --title COMMIT

Records the build that the library follows: its citations' line numbers are of that tree.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from ..engine.errors import EngineError
from .architectures import Tables, read_tables
from .make import DATA, LIBRARY, citations, make_record
from .report import architecture_lines, rule_lines, table_lines
from .trees import Folder, Record, Tree, load, save

__all__ = ["main"]


def main(words: list[str] | None = None) -> int:
    """Run one command; 1 where something differs that a builder or an estimate stands for."""
    args = _parser().parse_args(words)
    try:
        if args.command == "record":
            return _record(args.tree, args.title, args.data)
        if args.command == "prove":
            from .proofs import prove_all  # loads the engine

            return prove_all(args.tree, args.libraries, args.arch, args.only, args.build)
        for line in shown(args.tree, args.old, args.data, args.lines, args.library):
            print(line)
    except EngineError as error:
        raise SystemExit(str(error)) from None
    return 0


def shown(root: Path, old: Path | None, data: Path, lines: int, library: Path = LIBRARY) -> Iterator[str]:
    """What `show` prints."""
    record, new = load(data), Folder(root)
    before: Tree = Folder(old) if isinstance(old, Path) else record
    was = read_tables(before) if isinstance(before, Folder) else Tables.of(record.tables)
    yield f"From {before.title} to {new.title}\n"
    yield from rule_lines(citations(record, library).places, before, new, lines)
    yield ""
    yield from architecture_lines((before, was), (new, read_tables(new)), lines)
    yield ""
    yield from table_lines(was, read_tables(new))


def _record(root: Path, title: str, data: Path) -> int:
    record, found = make_record(root, title)
    save(record, data)
    print(f"{len(found.places)} cited definitions, {_size(record)} in all, {len(record.files)} files: {data}")
    for place, citation in found.lost:
        print(f"{place}: {citation} is nothing in this tree")
    return 0


def _size(record: Record) -> int:
    return sum(len(parts) for parts in record.files.values())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.nextbuild",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="what changed: rules, architectures, tables")
    show.add_argument("--old", type=Path, help="the tree to compare with, instead of the record")
    show.add_argument("--lines", type=int, default=6, help="lines of a difference")
    show.add_argument("--library", type=Path, default=LIBRARY, help=argparse.SUPPRESS)
    prove = commands.add_parser("prove", help="graphs and estimates against a built engine")
    prove.add_argument("--libraries", type=Path, required=True, help="the folder of its libllama.so")
    prove.add_argument("--arch", default="", help="headers of this architecture only")
    prove.add_argument("--only", default="", help="settings of the proof whose name has these words")
    prove.add_argument("--build", default="", help="what estimates are told that it is, such as b11549")
    record = commands.add_parser("record", help="what the library cites of the build that it follows")
    record.add_argument("--title", required=True, help="the commit")
    for command in (show, prove, record):
        command.add_argument("tree", type=Path, help="the root of an engine's source tree")
        command.add_argument("--data", type=Path, default=DATA, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
