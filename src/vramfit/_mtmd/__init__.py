"""Projectors: encoders of images and sound that the engine loads beside a model, from their own file.

| module     | one responsibility                                                       |
|------------|--------------------------------------------------------------------------|
| `header`   | a header → the towers of a projector: what each reads, and its numbers   |
| `warmup`   | how large an image or a recording the engine reserves for                |
| `context`  | what every builder has at hand: weights, norms, attention, a transformer |
| `builders` | one builder for each kind of projector                                   |
| `reserve`  | bytes of weights and compute buffers                                     |

Source: tools/mtmd of the engine.
"""

from __future__ import annotations

from .header import Projector, Tower, read_projector
from .reserve import Reserve, reserve

__all__ = ["Projector", "Reserve", "Tower", "read_projector", "reserve"]
