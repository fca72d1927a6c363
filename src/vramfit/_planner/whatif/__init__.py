"""Try what a person could change for more context: what each change gives, and what it costs.

In: `Model`, cards, `Settings`. Out: `Alternatives`, one plan for each change; or the one `Alternative` that
a preference picks.

| module    | one responsibility                                                |
|-----------|-------------------------------------------------------------------|
| `nouns`   | `Alternative`, `Alternatives`, what they are compared by          |
| `changes` | settings → other settings, and the flags that lead there          |
| `costs`   | what a change costs, in words with figures                        |
| `question`| what stays the same while changes are tried; plans, asked once each |
| `host`    | how much has to stay on the host: experts, layers, single tensors |
| `table`   | `trades`: every change alone                                      |
| `prefer`  | `best`: changes together, least of what a person wants to keep    |
"""

from __future__ import annotations

from .nouns import PREFERENCES, Alternative, Alternatives, Prefer, cache_bits
from .prefer import best
from .table import trades

__all__ = ["PREFERENCES", "Alternative", "Alternatives", "Prefer", "best", "cache_bits", "trades"]
