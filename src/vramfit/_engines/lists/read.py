"""Read a list of models of any kind: which one, its content tells."""

from __future__ import annotations

import re
from typing import Final

from ..._base.errors import SettingsError, SourceError, shown
from ..._planner.shared.nouns import MAX_TENANTS, OBJECTIVES
from .commands import KINDS, of_commands
from .nouns import MAX_BYTES, Listed, Listing, Raw, absent, listed
from .ours import of_ours
from .preset import HEADER, of_preset
from .swap import of_swap
from .yamls import plain

__all__ = ["read_list"]

_YAML: Final = re.compile(r"(---|%YAML|[{?-](\s|$)|\{\S)|[\"']?[\w.-]+[\"']?\s*:(\s|$)")
_PAIR: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*[ \t]*=")


def read_list(given: bytes | str, source: str = "<text>", only: tuple[str, ...] = ()) -> Listing:
    """Read the models of a list, or those that `only` names, and what it says for all of them.

    It is commands of llama-server, YAML of ours, a preset of llama-server's router, or llama-swap's config. `source` is what
    messages call it. Raises `SettingsError`, or `SourceError` for what is no text, both of which say where.
    """
    text = _text(given, source)
    shared: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    if _is_preset(text):
        raws = of_preset(text, source)
    elif _YAML.match(_first(text)):
        raws, shared = _of_yaml(text, source, only)
    else:
        raws, notes = of_commands(text, source)
    if not only and len(raws) > MAX_TENANTS:
        raise SettingsError(
            f"{source}: {len(raws)} models: give 1 to {MAX_TENANTS}, or name before --models those that are meant"
        )
    if not raws and not only:
        raise SettingsError(f"{source}: no model in it; a list is one of: {KINDS}")
    models = _chosen(raws, only, source)
    objective = shared.get("maximise", "")
    if objective and objective not in OBJECTIVES:
        raise SettingsError(f"{source}: maximise: {shown(objective)}: give one of {', '.join(OBJECTIVES)}")
    return Listing(models, **shared, notes=notes)


def _text(given: bytes | str, source: str) -> str:
    """Take text: what is too long, or a file of another kind, is refused."""
    if len(given) > MAX_BYTES:
        raise SourceError(f"{source}: larger than {MAX_BYTES >> 10} KiB; a list of models is a short text")
    if isinstance(given, bytes):
        if given.startswith(b"GGUF"):
            raise SourceError(f"{source}: a GGUF file, not a list of models; name it without --models")
        try:
            given = given.decode("utf-8-sig")
        except UnicodeDecodeError as e:
            raise SourceError(
                f"{source}: byte {e.start} is no text in UTF-8; a list is one of: {KINDS}"
            ) from None
    if "\0" in given:
        raise SourceError(
            f"{source}: a zero byte at {given.index(chr(0))}: no text; a list is one of: {KINDS}"
        )
    return given.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _first(text: str, comments: tuple[str, ...] = ("#",)) -> str:
    """Find the first line that says something; "" for none."""
    return next(
        (line for line in text.split("\n") if line.strip() and not line.lstrip().startswith(comments)), ""
    )


def _is_preset(text: str) -> bool:
    """Tell whether the text has sections, and begins as what has them."""
    first = _first(text, ("#", ";"))
    begins = HEADER.fullmatch(first) or _PAIR.match(first)
    return bool(begins) and any(HEADER.fullmatch(line) for line in text.split("\n"))


def _of_yaml(text: str, source: str, only: tuple[str, ...]) -> tuple[list[Raw], dict[str, str]]:
    found = plain(text, source)
    if not isinstance(found, dict):
        raise SettingsError(f"{source}: YAML without models; write models: before the list")
    if isinstance(found.get("models"), dict):
        return of_swap(found, source, only), {}
    return of_ours(found, source)


def _chosen(raws: list[Raw], only: tuple[str, ...], source: str) -> tuple[Listed, ...]:
    """Read the models that `only` names, in its order; all where it names none."""
    if not only:
        return tuple(map(listed, raws))
    named = {raw.name: raw for raw in raws if raw.name}
    known = {name: listed(named[name]) for name in only if name in named}
    if len(known) < len(set(only)):
        known = {one.called: one for one in (listed(raw) for raw in raws)} | known
    for name in only:
        if name not in known:
            raise absent(source, name, known)
    return tuple(known[name] for name in only)
