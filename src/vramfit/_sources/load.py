"""Read any reference to a model as a `Model`: the whole way from bytes in one call, alone or with what is loaded beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .._base.errors import SourceError, VramfitError, shown
from .._coerce import call, flag, word
from .._llama.arch import describe
from .._llama.model import Model
from . import Reference, Resolved, open_headers, reference_name, resolve

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["read", "read_loaded"]


def read(
    reference: Reference | Resolved,
    *,
    assume: str | None = None,
    revision: str = "",
    token: str = "",
    cache: bool = True,
    progress: Callable[[str, int], None] | None = None,
) -> Model:
    """Read the model that `reference` names: a path to a GGUF file, any shard of a split one, bytes, a URL, a name on
    the Hugging Face Hub, in Ollama or LM Studio, `-` for standard input, or what `source.resolve` found.

    Only headers are read. `assume` names the architecture to take in place of an unknown one; the
    result records it. `revision` is a branch, tag or commit on the Hub, `token` one for it in place of that
    which huggingface-hub finds. `cache=False` neither uses headers that were read before nor keeps those read now. `progress` is told the name of a remote file and how many
    bytes of it came, from any thread. Raises `SourceError`, `HeaderError` or `ModelError`.
    """
    assume = None if assume is None else word("assume", assume)
    revision, token = word("revision", revision), word("token", token)
    cache = flag("cache", cache)
    call("progress", progress)
    if not isinstance(reference, Resolved | str | os.PathLike | bytes | bytearray | memoryview):
        raise SourceError(f"reference={shown(reference)}: give a path, a URL, a name, or bytes")
    if isinstance(reference, memoryview) and not reference.c_contiguous:
        reference = bytes(reference)
    if isinstance(reference, Resolved):
        return describe(reference.headers, assume=assume, source=reference.name)
    headers = open_headers(reference, revision=revision, token=token, cache=cache, progress=progress)
    return describe(headers, assume=assume, source=reference_name(reference))


def read_loaded(
    reference: Reference, told: Mapping[str, Any], *, assume: str | None = None, **how: Any
) -> tuple[Model, tuple[str, ...]]:
    """Read the model, and put beside it what is `told` (arguments of `accompany`) and what comes with it.

    llama-server loads the projector of a repository that it fetched, Ollama that and the adapters and the draft of its layers;
    nothing comes with a file. The second value says which of these could not be counted. `how` are the other
    arguments of `read`. Raises as `read` and `accompany` do.
    """
    if how.get("revision") or not isinstance(reference, str) or os.path.isfile(reference):
        return _beside(read(reference, assume=assume, **how), told), ()
    resolved = resolve(reference, **how)
    model = replace(read(resolved, assume=assume), source=reference_name(reference))
    found = {name: value for name, value in _comes_with(resolved).items() if name not in told}
    if told.get("mmproj_auto") is False:
        found.pop("mmproj", None)
    try:
        with_found = _beside(model, found)
    except VramfitError as e:
        return _beside(model, told), (f"not counted: {e}",)
    return _beside(model, {**told, **found}) if told else with_found, ()


def _beside(model: Model, told: Mapping[str, Any]) -> Model:
    if not told:
        return model
    from .company import accompany

    return accompany(model, **told)


def _comes_with(resolved: Resolved) -> dict[str, Any]:
    """What of a model's companions is on this machine and loaded with it, as arguments of `accompany`."""
    found: dict[str, Any] = {}
    for kind, name in (("projector", "mmproj"), ("draft", "draft")):
        first = resolved.companion(kind)
        if first is not None and first.path is not None:
            found[name] = first.path
    adapters = tuple((c.path, 1.0) for c in resolved.companions if c.kind == "adapter" and c.path is not None)
    return found | ({"lora": adapters} if adapters else {})
