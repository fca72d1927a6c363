"""Flags of the engine's programs: which there are, what each means for a plan, and a command line of them read.

| module   | one responsibility                                             |
|----------|----------------------------------------------------------------|
| `engine` | the pinned engine's argument table, as facts                   |
| `table`  | these facts as `Flag`s, found by spelling or variable          |
| `values` | the word behind a flag → the value of a field of `Settings`    |
| `line`   | the words of a command line → `Line`                           |
"""

from __future__ import annotations

from .line import Line, is_command, read, split_text, take
from .table import Does, Flag, by_variable, find, flags
from .values import first_experts

__all__ = [
    "Does", "Flag", "Line", "by_variable", "find", "first_experts", "flags", "is_command", "read", "split_text", "take",
]  # fmt: skip
