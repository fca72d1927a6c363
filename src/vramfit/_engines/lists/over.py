"""Put what a command line says over the models of a list, and give every model a name of its own."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from ..._base.errors import SettingsError, shown
from ..._llama.flags import Line
from ..._sources.redact import redacted
from .nouns import Listed

__all__ = ["both", "check_weights", "limited", "named_apart", "over"]


def over(one: Listed, typed: Line, wish: int | None = None) -> tuple[Listed, tuple[str, ...]]:
    """Put typed flags, and a typed wish (0: the trained context), over a model's own; say what of it they contradict.

    A typed context takes the place of a wish, and a wish that of a context.
    """
    given, company = dict(one.line.given), dict(one.line.company)
    own: dict[str, Any] = {**given, **company} | ({"wish": one.wish} if one.wish else {})
    if "n_ctx" in typed.given:
        one = replace(one, wish=0, weight=1.0)
    if wish is not None:
        given.pop("n_ctx", None)
        one = replace(one, wish=wish)
    given |= typed.given
    company |= typed.company
    line = both([one.line, typed])._replace(
        given=MappingProxyType(given), model=one.line.model, company=MappingProxyType(company)
    )
    now = {**given, **company} | ({"wish": one.wish} if one.wish else {})
    said = [
        f"{one.called}: {_spelt(name, now.get(name))} of the command line, not {_spelt(name, was)} of {one.where}"
        if name in now
        else f"{one.called}: {_spelt(name, was)} of {one.where} gives way to {'wish' if wish is not None else 'ctx'} of the command line"
        for name, was in own.items()
        if now.get(name) != was
    ]
    return replace(one, line=line), tuple(said)


def both(lines: Sequence[Line]) -> Line:
    """Put together what several lines hold that is not counted or was passed over, each flag once."""

    def each(of: Callable[[Line], tuple[Any, ...]]) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(x for line in lines for x in of(line)))

    return Line(
        ignored=each(lambda x: x.ignored),
        host=each(lambda x: x.host),
        other=each(lambda x: x.other),
        uncounted=each(lambda x: x.uncounted),
    )


def _spelt(name: str, value: Any) -> str:
    word = redacted(value) if isinstance(value, str) else value if isinstance(value, int) else shown(value)
    return f"{name}={word}"


def limited(one: Listed, max_ctx: int | None) -> None:
    """Check a model's context and wish against a limit for all. Raises `SettingsError`."""
    for key, value in (("ctx", one.line.given.get("n_ctx", 0)), ("wish", one.wish)):
        if max_ctx is not None and value > max_ctx:
            raise SettingsError(
                f"{one.where}: {key} {value} is above --max-ctx {max_ctx}; raise the one or lower the other"
            )


def check_weights(models: Sequence[Listed], objective: str) -> None:
    """Check that a weight is given only where shares are what is maximised. Raises `SettingsError`."""
    weighed = next((m for m in models if m.weight != 1), None)
    if weighed is not None and objective == "order":
        raise SettingsError(
            f"{weighed.where}: weight {weighed.weight:g} of {weighed.called} counts for shares, and maximise order goes by the order"
            " alone; leave one of the two out"
        )


def named_apart(models: Sequence[Listed]) -> tuple[Listed, ...]:
    """Give each model a name that no other has: those without one of their own get their whole reference where they need it.

    Raises `SettingsError` for a model named twice without names of their own, and for two of one name.
    """
    by_name: dict[str, Listed] = {}
    by_reference: dict[str, Listed] = {}
    for one in models:
        twin = by_reference.setdefault(_plain(one.reference), one)
        if twin is not one and not (one.name and twin.name):
            raise SettingsError(
                f"{redacted(one.reference)} is named twice{_places(twin, one)}; give each a name of its own in a list for --models: name in YAML, --alias"
                " in a command"
            )
        other = by_name.setdefault(one.name, one) if one.name else one
        if other is not one:
            raise SettingsError(
                f"two models are called {shown(one.name)}{_places(other, one)}; give each a name of its own"
            )
    often = Counter(one.called for one in models)
    return tuple(
        one if one.name or often[one.called] == 1 else replace(one, name=redacted(one.reference))
        for one in models
    )


def _places(a: Listed, b: Listed) -> str:
    return f" ({a.where}, {b.where})" if a.where != b.where else ""


def _plain(reference: str) -> str:
    """A reference as it is compared: `./a.gguf` is `a.gguf`."""
    return reference if "://" in reference else os.path.normpath(reference)
