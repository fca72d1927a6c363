"""Answer what a model that is loaded next leaves of the context: `--next` and `--next-ctx`."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from .._base.errors import SettingsError
from .._base.units import parse_size
from .options import SERVER

if TYPE_CHECKING:
    from .._planner.gives_up import GivesUp
    from .._planner.plan import Plan
    from .._planner.shared import Tenant
    from .models import Choice

__all__ = ["Next", "next_model"]


class Next(NamedTuple):
    """What is asked of the next model, the answer, and the answer in a sentence."""

    found: GivesUp | None
    sentence: str


def next_model(
    plan: Plan, name: str | None, n_ctx: int | None, engine: str | None, choice: Choice
) -> Next | None:
    """Answer `--next`, without a name for the first size that is not left already. None where nothing fits.

    Raises `SettingsError` for options that contradict, and what reading a model raises.
    """
    size = None if name is None else _size(name)
    if n_ctx is not None and (name is None or size is not None):
        raise SettingsError(f"--next-ctx {n_ctx}: is for a model; give it as --next MODEL")
    other = None if name is None or size is not None else _tenant(name, n_ctx, engine, choice)
    if not plan.fits:
        return None
    from .._planner.gives_up import gives_up, next_size
    from .._report.left import gives_up_sentence, none_beside_sentence

    if other is None:
        size = next_size(plan) if size is None else size
        found = gives_up(plan, size)
        return Next(found, gives_up_sentence(plan, size, found))
    found = gives_up(plan, other)
    return Next(
        found,
        gives_up_sentence(plan, 0, found)
        if found
        else none_beside_sentence(other.name, other.settings.n_ctx),
    )


def _size(name: str) -> int | None:
    """Read a size; None for what names a model."""
    if os.path.exists(name):
        return None
    if re.fullmatch(r"-\d.*", name):
        raise SettingsError(f"--next {name}: give a size above 0, or a model")
    try:
        found = parse_size(name)
    except SettingsError:
        return None
    if not found:
        raise SettingsError(f"--next {name}: give a size above 0, or a model")
    return found


def _tenant(name: str, n_ctx: int | None, engine: str | None, choice: Choice) -> Tenant:
    """Read the model that is loaded next, with the engine's defaults and its trained context unless another was given."""
    from .._engines.settings import engine_settings
    from .._engines.table import named
    from .._llama.cparams import trained_ctx
    from .._planner.shared import Tenant

    if engine is not None and named(engine)[0].split != "told":
        raise SettingsError(
            f"--next {name}: {engine} places models itself; give the size that the next takes, as in 4GiB"
        )
    model = replace(choice, reference=name, revision="", assume=None).read({})
    settings = engine_settings(engine or SERVER, {})
    n_ctx = n_ctx or trained_ctx(model, settings)
    if not n_ctx:
        raise SettingsError(f"--next {name}: the header has no trained context; give --next-ctx a number")
    return Tenant(model, replace(settings, n_ctx=n_ctx))
