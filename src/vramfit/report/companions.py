"""What comes with a model, as text and for JSON: the end of `vramfit inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..foreign import printable
from ..units import format_bytes

if TYPE_CHECKING:
    from ..source import Companion, Resolved
    from .schema import CompanionJson

__all__ = ["as_json", "companions_text"]

# Layers that say nothing of memory.
_SILENT = frozenset({"license", "messages", "system", "prompt", "json", "embed"})


_LABEL = 17  # as wide as the labels above it


def companions_text(resolved: Resolved) -> str:
    """A line for each companion that matters to memory, and one of Ollama's parameters; "" for a model that comes alone."""
    lines = [_line(c) for c in resolved.companions if c.kind not in _SILENT | {"params"}]
    if resolved.parameters:
        pairs = (f"{key} {_value(value)}" for key, value in sorted(resolved.parameters.items()))
        lines.append(f"{'run options':<{_LABEL}}{', '.join(pairs)}")
    return "\n".join(map(printable, lines))


def as_json(resolved: Resolved | None) -> list[CompanionJson]:
    """All companions, for programs."""
    from .schema import CompanionJson

    return [
        CompanionJson(kind=c.kind, name=c.name, bytes=c.n_bytes, path=str(c.path) if c.path else None)
        for c in (resolved.companions if resolved else ())
    ]


def _line(companion: Companion) -> str:
    size = "" if companion.n_bytes is None else f", {format_bytes(companion.n_bytes)}"
    return f"{companion.kind:<{_LABEL}}{companion.name}{size}"


def _value(value: object) -> str:
    return repr(value) if isinstance(value, str | list) else str(value)
