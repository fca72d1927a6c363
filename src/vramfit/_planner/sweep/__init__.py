"""One model over arrays of settings: a grid of estimates in columns.

In: a `Model`, sets of cards, the values of each setting. Out: a `Sweep`. Weights and context come from
the formulas of `memory`, evaluated on whole arrays. A compute buffer has no formula: it is learned along straight
stretches of contexts and replayed at single ones as far as the work allowed goes, and bounded from above at the others.

| module   | one responsibility                                                     |
|----------|------------------------------------------------------------------------|
| `result` | `Sweep`: columns, rows, frames                                         |
| `grid`   | what a caller gives → the values of every axis, checked                |
| `runs`   | contexts that are alike, and those along which buffers can be straight |
| `company`| a draft's curves and a projector's bytes beside those of the model      |
| `curves` | compute buffers against the context: exact at most, else bounded       |
| `fill`   | a grid → its columns                                                   |
"""

from __future__ import annotations

from .fill import sweep
from .result import Sweep

__all__ = ["Sweep", "sweep"]
