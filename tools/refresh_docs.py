"""Writes what the commands print today into the console blocks of the documents.

    python tools/refresh_docs.py [PAGE...]

A block whose output holds `...` is left as it is: somebody chose what to show. `tests/test_docs.py`
checks that the pages are true; this makes them so again after a change that was meant.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(^```console\n)(.*?)(^```)", re.MULTILINE | re.DOTALL)


def printed(command: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env={**os.environ, "PATH": path, "COLUMNS": "", "FORCE_COLOR": ""},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    return done.stdout.rstrip("\n") + "\n" if done.stdout.strip() else ""


def refreshed(match: re.Match[str]) -> str:
    head, body, tail = match.groups()
    parts = re.split(r"^(?=\$ )", body, flags=re.MULTILINE)
    return head + "".join(map(_session, parts)) + tail


def _session(part: str) -> str:
    lines = part.splitlines(keepends=True)
    n = 1
    while n < len(lines) and lines[n - 1].endswith("\\\n"):
        n += 1
    command, output = "".join(lines[:n]), "".join(lines[n:])
    if not command.startswith("$ ") or "..." in output or not output.strip():
        return part
    return command + printed(command[2:].replace("\\\n", ""))


def main() -> None:
    pages = [Path(p) for p in sys.argv[1:]] or [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        old = page.read_text()
        new = BLOCK.sub(refreshed, old)
        if new != old:
            page.write_text(new)
            print(page.relative_to(ROOT) if page.is_relative_to(ROOT) else page)


if __name__ == "__main__":
    main()
