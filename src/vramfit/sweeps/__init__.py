"""One model over arrays of settings: a grid of estimates in columns.

In: a `Model`, sets of cards, the values of each setting. Out: a `Sweep`. Weights and context come from
the formulas of `memory`, evaluated on whole arrays. A compute buffer has no formula: it is learned at
some contexts, and is never too low between them.

| module   | one responsibility                                                     |
|----------|------------------------------------------------------------------------|
| `result` | `Sweep`: columns, rows, frames                                         |
| `grid`   | what a caller gives → the values of every axis, checked                |
| `curves` | compute buffers against the context: learned at some, bounded between  |
| `fill`   | a grid → its columns                                                   |
"""

from __future__ import annotations

from .fill import sweep
from .result import Sweep

__all__ = ["Sweep", "sweep"]
