"""Read the models of a list as `Tenant`s: the whole way from a file that people have."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .._base.errors import SourceError, shown
from .._llama.model import Model
from .._sources.load import read_loaded
from .._sources.texts import short_file
from .lists import MAX_BYTES, Listed, Listing, read_list
from .lists.nouns import placed
from .lists.over import check_weights, named_apart
from .settings import settings_for

if TYPE_CHECKING:
    from .._planner.shared import Tenant

__all__ = ["list_in_file", "read_models", "tenant_of"]


def read_models(source: str | os.PathLike[str] | bytes) -> tuple[Tenant, ...]:
    """Read the models of a list, each with its own settings: a path, or the text itself.

    A string that has a line end is the text, any other the path of a file; bytes are text. A list is commands of llama-server,
    one a line, a YAML of `models`, a preset of llama-server's router, or llama-swap's config; its content tells which.
    What is loaded beside each model is counted. Cards, host, margin and objective of a YAML are for the command line.
    Raises `SourceError` and `SettingsError` that say where, and what `read` and `accompany` raise.
    """
    if isinstance(source, bytes) or (isinstance(source, str) and "\n" in source):
        listing = read_list(source)
    elif isinstance(source, str | os.PathLike):
        listing = list_in_file(os.fsdecode(source))
    else:
        raise SourceError(f"source={shown(source)}: give the path of a list of models, or its text")
    check_weights(listing.models, listing.maximise)
    return tuple(_read(one) for one in named_apart(listing.models))


def list_in_file(path: str, only: tuple[str, ...] = ()) -> Listing:
    """Read the list in a file, or the models of it that `only` names. Raises `SourceError` and `SettingsError`."""
    return read_list(short_file(path, MAX_BYTES + 1), path, only)


def _read(one: Listed) -> Tenant:
    with placed(one.where):
        model, _ = read_loaded(one.reference, one.line.company, token=one.token)
        return tenant_of(one, model)


def tenant_of(one: Listed, model: Model, engine: str = "llama-server") -> Tenant:
    """Make the tenant that `model` is with what its list says. Raises `SettingsError` for what the engine cannot be told."""
    from .._planner.shared import Tenant

    return Tenant(model, settings_for(model, one.line.given, engine), one.wish, one.weight, one.name)
