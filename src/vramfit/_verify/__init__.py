"""Estimates beside what an engine printed: which figures agree, and which change makes the others agree.

| module    | one responsibility                                                         |
|-----------|----------------------------------------------------------------------------|
| `nouns`   | `Verification`: rows, causes, what was taken for granted                   |
| `asked`   | a `Load` → the cards and `Settings` that it was loaded with                 |
| `context` | the context, where the log has only the cells or the bytes of its caches     |
| `split`   | the layers of each card, where the log says only how many bytes lie there   |
| `moved`   | the experts that stay on the host, where the log does not say which         |
| `builds`  | which builds a log can be of, one for each era                              |
| `compare` | an estimate and a `Load` → rows, and whether they agree                     |
| `causes`  | one setting changed at a time: which change makes the figures equal         |
| `alone`   | a `Load` without a model: what its own dimensions say                       |
| `verify`  | the whole way                                                              |
| `report`  | one file without names or paths, and a `Verification` made again from it    |
"""

from __future__ import annotations

from .nouns import Cause, Row, Verification
from .verify import verify

__all__ = ["Cause", "Row", "Verification", "verify"]
