"""Write what comes with a model, as text and for JSON: the end of `vramfit inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._base.units import format_bytes
from .look import PLAIN, Look
from .tables import render_facts

if TYPE_CHECKING:
    from .._sources import Companion, Resolved
    from .schema import CompanionJson

__all__ = ["as_json", "companions_text"]

# Layers that say nothing of memory.
_SILENT = frozenset({"license", "messages", "system", "prompt", "json", "embed"})


_LABEL = 17  # as wide as the labels above it


def companions_text(resolved: Resolved, look: Look = PLAIN) -> str:
    """Show a line for each companion that matters to memory, and one of Ollama's parameters; "" without any."""
    facts = [(c.kind, _said(c)) for c in resolved.companions if c.kind not in _SILENT | {"params"}]
    if resolved.parameters:
        pairs = (f"{key} {_value(value)}" for key, value in sorted(resolved.parameters.items()))
        facts.append(("run options", ", ".join(pairs)))
    return render_facts(facts, look, _LABEL) if facts else ""


def as_json(resolved: Resolved | None) -> list[CompanionJson]:
    """List all companions, for programs."""
    from .schema import CompanionJson

    return [
        CompanionJson(kind=c.kind, name=c.name, bytes=c.n_bytes, path=str(c.path) if c.path else None)
        for c in (resolved.companions if resolved else ())
    ]


def _said(companion: Companion) -> str:
    size = "" if companion.n_bytes is None else f", {format_bytes(companion.n_bytes)}"
    return f"{companion.name}{size}"


def _value(value: object) -> str:
    return repr(value) if isinstance(value, str | list) else str(value)
