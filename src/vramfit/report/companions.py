"""What comes with a model, as text: the end of `vramfit inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..units import format_bytes

if TYPE_CHECKING:
    from ..source import Companion, Resolved

__all__ = ["companions_text"]

# Layers that say nothing of memory.
_SILENT = frozenset({"license", "messages", "system", "prompt", "json", "embed"})


_LABEL = 17  # as wide as the labels above it


def companions_text(resolved: Resolved) -> str:
    """A line for each companion that matters to memory, and one of parameters; "" for a model that comes alone."""
    lines = [_line(c) for c in resolved.companions if c.kind not in _SILENT | {"params"}]
    if resolved.parameters:
        pairs = (f"{key} {_value(value)}" for key, value in sorted(resolved.parameters.items()))
        lines.append(f"{'parameters':<{_LABEL}}{', '.join(pairs)}")
    return "\n".join(lines)


def _line(companion: Companion) -> str:
    size = "" if companion.n_bytes is None else f", {format_bytes(companion.n_bytes)}"
    return f"{companion.kind:<{_LABEL}}{companion.name}{size}"


def _value(value: object) -> str:
    return repr(value) if isinstance(value, str | list) else str(value)
