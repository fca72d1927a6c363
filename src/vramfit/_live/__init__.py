"""Engines at hand, asked what they allocate: a door to processes and to servers that run.

| module     | one responsibility                                                        |
|------------|---------------------------------------------------------------------------|
| `programs` | llama-server, llama-fit-params and llama-cpp-python started, what they print read |
| `servers`  | a llama-server's `/props`, Ollama's `/api/ps` and `/api/version`          |
"""

from __future__ import annotations

from .programs import PROGRAMS, printed_by
from .servers import OLLAMA, Running, running_at

__all__ = ["OLLAMA", "PROGRAMS", "Running", "printed_by", "running_at"]
