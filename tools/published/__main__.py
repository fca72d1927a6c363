"""`python -m tools.published`: write the headers of published models.

python -m tools.published write --out DIR [--arch A]     # one header a fact; what the engine refuses is listed
python -m tools.published list                           # models by architecture
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections import Counter

from .facts import CERTAINTY, facts, keep


def main() -> int:
    """Parse the command line and run one command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.published",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="count the facts of each architecture")
    write = commands.add_parser("write", help="write the headers")
    write.add_argument("--out", type=pathlib.Path, required=True)
    write.add_argument("--arch", default="", help="of this architecture only")
    kept = commands.add_parser("keep", help="add facts from what convert.py prints")
    kept.add_argument("lines", type=pathlib.Path)
    kept.add_argument("--by", choices=CERTAINTY, default=CERTAINTY[0], help="how sure the numbers are")
    args = parser.parse_args()
    if args.command == "list":
        for architecture, n in sorted(Counter(fact.architecture for fact in facts()).items()):
            print(f"{n:4} {architecture}")
        return 0
    if args.command == "keep":
        for fact in keep(map(json.loads, args.lines.read_text().splitlines()), args.by):
            print(fact.file_name)
        return 0
    return _write(args.out, args.arch)


def _write(folder: pathlib.Path, architecture: str) -> int:
    from tools.engine.load import Refused

    from .tensors import write

    folder.mkdir(parents=True, exist_ok=True)
    n, refused = 0, 0
    for fact in facts(architecture):
        try:
            write(fact, folder)
            n += 1
        except Refused as reason:
            refused += 1
            print(f"{fact.file_name}: {reason}", file=sys.stderr)
    print(f"{n} headers, {refused} refused")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
