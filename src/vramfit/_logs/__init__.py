"""What llama.cpp and the programs built on it print when they load a model → facts, settings, buffers.

| module     | one responsibility                                                     |
|------------|------------------------------------------------------------------------|
| `nouns`    | `Load`: one model loaded once, as the log says it                      |
| `lines`    | text of any size → lines without colours and ends, each of bounded length |
| `sieve`    | the lines that can matter                                              |
| `patterns` | the printed lines that matter, of every year since 2024                |
| `reading`  | lines → `Load`s                                                        |
| `ollama`   | Ollama's own lines: `time=… level=… msg="…"`                           |
| `dates`    | the builds that print such lines, where a log names none               |
"""

from __future__ import annotations

from .dates import builds_of
from .lines import lines_of
from .nouns import HOST, KINDS, Beside, Buffer, Device, Load, Size, is_host
from .reading import read_loads

__all__ = [
    "HOST",
    "KINDS",
    "Beside",
    "Buffer",
    "Device",
    "Load",
    "Size",
    "builds_of",
    "is_host",
    "lines_of",
    "read_loads",
]
