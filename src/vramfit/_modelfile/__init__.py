"""Ollama's Modelfiles: read them without losing a byte, check every context in them, mend it.

| module       | one responsibility                                            |
|--------------|---------------------------------------------------------------|
| `grammar`    | text → `Modelfile`, and back, byte for byte                   |
| `parameters` | the names that PARAMETER takes, and their values              |
| `check`      | does each `num_ctx` fit, and which one would                  |
"""

from __future__ import annotations

from .check import Finding, Verdict, check, fix
from .grammar import Command, Modelfile, parse_modelfile

__all__ = ["Command", "Finding", "Modelfile", "Verdict", "check", "fix", "parse_modelfile"]
