"""`python -m vramfit`: the same as the `vramfit` command."""

from __future__ import annotations

from ._cli import main

if __name__ == "__main__":
    main(prog_name="vramfit")
