"""Read a model as an engine loads it: with what its flags load beside it, and what comes with it unasked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .._base.errors import VramfitError
from .._llama.model import Model
from . import Reference, Resolved, reference_name, resolve
from .load import read

__all__ = ["read_loaded"]


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
