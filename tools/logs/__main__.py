"""`python -m tools.logs`: the collection of printed loads in tests/data/logs.

python -m tools.logs table [--headers DIR]   # by engine, year and backend: what was read, and beside headers what agrees
python -m tools.logs check                   # read every log again; say where the index has other figures
python -m tools.logs read FILE               # what is read of a new log, as an entry of the index
python -m tools.logs replay REPORT...        # reports of `vramfit verify --report`, with the rules of today
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from vramfit._base.errors import VramfitError
from vramfit._verify.report import replay

from .collection import Entry, compared, entries, parsed_of, table


def main() -> int:
    """Parse the command line and run one command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.logs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    shown = commands.add_parser("table", help="list the logs")
    shown.add_argument(
        "--headers", type=Path, default=None, help="headers of published models, to compare with"
    )
    commands.add_parser("check", help="read every log again")
    commands.add_parser("read", help="read a new log").add_argument("file", type=Path)
    commands.add_parser("replay", help="compare reports again").add_argument("files", type=Path, nargs="+")
    args = parser.parse_args()
    if args.command == "table":
        print(table([(entry, compared(entry, args.headers)) for entry in entries()]))
        return 0
    if args.command == "check":
        return _check(entries())
    if args.command == "read":
        print(json.dumps(parsed_of(args.file), indent=1))
        return 0
    return _replay(args.files)


def _check(found: list[Entry]) -> int:
    wrong = [entry.log for entry in found if parsed_of(entry.path) != entry.parsed]
    for log in wrong:
        print(f"{log}: the index has other figures than what is read", file=sys.stderr)
    print(f"{len(found)} logs, {len(wrong)} other than the index says")
    return 1 if wrong else 0


def _replay(files: list[Path]) -> int:
    failed = 0
    for file in files:
        try:
            report: dict[str, Any] = json.loads(file.read_text())
            print(f"{file}:\n{replay(report)}\n")
        except (OSError, ValueError, VramfitError) as e:
            failed = 1
            print(f"{file}: {e}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
