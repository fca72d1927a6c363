"""What a reference turned out to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from .._gguf import Header
from .origin import File

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Companion(NamedTuple):
    """A file that goes with a model and is loaded beside it, or tells how to run it."""

    kind: str  # "projector", "adapter", "draft", "template", "system", "license", ...
    name: str  # of the file, or its digest
    n_bytes: int | None = None  # None where only opening it would tell
    path: Path | None = None  # where it lies on this machine, if it does


class Resolved(NamedTuple):
    """A model as its reference names it: headers, and what comes with them."""

    name: str  # where it was found, in full
    headers: tuple[Header, ...]  # of all its files, in the order of the shards
    path: Path | None = None  # of the first file read, where it is on this machine
    companions: tuple[Companion, ...] = ()
    parameters: Mapping[str, Any] = _NOTHING  # Ollama's, such as num_ctx
    template: str = ""  # of the prompt, where it lies on this machine

    def companion(self, kind: str) -> Companion | None:
        """Find the first companion of a kind: the one that Ollama loads."""
        return next((c for c in self.companions if c.kind == kind), None)


class Located(NamedTuple):
    """A model that was found, before anything of it was read."""

    file: File
    companions: tuple[Companion, ...] = ()
    parameters: Callable[[], Mapping[str, Any]] = lambda: _NOTHING
    template: Callable[[], str] = lambda: ""
