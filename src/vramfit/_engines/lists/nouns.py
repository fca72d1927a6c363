"""One model of a list and what it is told, and all that a list says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from ..._base.errors import SettingsError, VramfitError, shown
from ..._base.matches import get_close_matches
from ..._base.units import parse_count
from ..._llama.flags import Line, read, take
from ..._sources.named import by_flags
from ..._sources.redact import redacted

__all__ = [
    "MAX_BYTES",
    "MAX_LISTED",
    "Listed",
    "Listing",
    "Raw",
    "absent",
    "check_keys",
    "listed",
    "placed",
    "tokens",
]

MAX_BYTES: Final = 256 << 10  # of a list; the longest that people have are some ten KiB
MAX_LISTED: Final = 256  # models of a list, of which some are chosen
TRAINED: Final = "train"
LARGEST: Final = ("max", "0")


@dataclass(frozen=True, slots=True)
class Listed:
    """One model of a list: what it is called ("": nothing of its own), its reference, and what its flags say.

    `line.given["n_ctx"]` fixes its context, 0 at the trained one; else it gets as much as can be of `wish` (tokens of all
    slots; 0: the trained context), which counts by `weight`. `where` says where it stands, for messages.
    """

    name: str
    reference: str
    line: Line = field(repr=False)  # it may name a token
    wish: int = 0
    weight: float = 1.0
    where: str = ""

    @property
    def called(self) -> str:
        """What it is called: its name, or the last part of its reference."""
        return self.name or PurePath(self.reference).stem

    @property
    def token(self) -> str:
        """The token of the Hub that its flags name, or ""."""
        return by_flags(self.line.model)[1]


@dataclass(frozen=True, slots=True)
class Listing:
    """All that a list says: its models, and for all of them, as words, "" where it says nothing, cards, host, margin, objective."""

    models: tuple[Listed, ...]
    gpus: str = ""
    host: str = ""
    margin: str = ""
    maximise: str = ""
    notes: tuple[str, ...] = ()  # on what was passed over


class Raw(NamedTuple):
    """One model as a list spells it: a reference, or words that name one."""

    where: str
    words: tuple[str, ...]
    name: str = ""
    reference: str = ""
    ctx: str | None = None
    wish: int | None = None
    weight: float = 1.0
    uncounted: tuple[tuple[str, tuple[str, ...]], ...] = ()


@contextmanager
def placed(where: str) -> Iterator[None]:
    """Put `where` before what an error says, unless it begins so."""
    try:
        yield
    except VramfitError as e:
        if not str(e.args[0]).startswith(where):
            e.args = (f"{where}: {e.args[0]}", *e.args[1:])
        raise


def listed(raw: Raw) -> Listed:
    """Read the words of a model. Raises `SettingsError`, which says where they stand."""
    with placed(raw.where):
        line = read(raw.words)
        by_line, _ = by_flags(line.model)
        if raw.reference and by_line:
            raise SettingsError(
                f"two models given: {redacted(raw.reference)} and {redacted(by_line)}; leave one out"
            )
        reference = raw.reference or by_line
        if not reference:
            raise SettingsError(f"names no model{_instead(raw.words)}")
        given = dict(line.given)
        if given.get("n_ctx") == 0:
            del given["n_ctx"]  # the trained context is what it wishes
        if raw.ctx is not None:
            if "n_ctx" in line.given:
                raise SettingsError(f"ctx {raw.ctx} and -c {line.given['n_ctx']}: give one of the two")
            given |= _fixed(raw.ctx)
        if "n_ctx" in given and raw.wish is not None:
            raise SettingsError(
                f"ctx {given['n_ctx']} fixes its context, and wish {raw.wish} asks for another; give one of the two"
            )
        if "n_ctx" in given and raw.weight != 1:
            raise SettingsError(
                f"ctx {given['n_ctx']} fixes its context, and weight {raw.weight:g} says how much it grows; leave one out"
            )
        line = line._replace(given=MappingProxyType(given), uncounted=(*line.uncounted, *raw.uncounted))
        return Listed(raw.name or _alias(raw.words), reference, line, raw.wish or 0, raw.weight, raw.where)


def _fixed(word: str) -> dict[str, Any]:
    """Read a context of our YAML: a number, the trained one, or as much as can be."""
    if word.lower() == TRAINED:
        return {"n_ctx": 0}
    return {} if word.lower() in LARGEST else {"n_ctx": tokens("ctx", word)}


def tokens(key: str, word: str) -> int:
    """Read a number of tokens above 0. Raises `SettingsError`."""
    try:
        found = parse_count(word)
    except SettingsError as e:
        raise SettingsError(f"{key}: {e}, or {TRAINED}") from None
    if found < 1:
        raise SettingsError(f"{key} {found}: give 1 or more, or {TRAINED}")
    return found


def _alias(words: tuple[str, ...]) -> str:
    """What `--alias` calls a model: the first of its names."""
    at, name = 0, ""
    while at < len(words):
        found = take(words, at) if words[at].startswith("-") else None
        if found is not None and "--alias" in found[0].names:
            name = found[3] if found[3] is not None else words[at + 1]
        at += 1 if found is None else found[2]
    return name.partition(",")[0].strip()


def _instead(words: tuple[str, ...]) -> str:
    """What to do about a command without a model."""
    for i, word in enumerate(words):
        if word == "--models-preset" and i + 1 < len(words):
            return f": it starts a router; give its presets, as in --models {shown(words[i + 1])}"
        if word == "--models-dir":
            return ": it starts a router; name the models of that folder, as in vramfit plan A.gguf B.gguf"
    return "; add -m FILE or -hf USER/REPO"


def check_keys(where: str, keys: object, known: tuple[str, ...]) -> None:
    """Check that a mapping has known keys alone. Raises `SettingsError`, with the nearest one."""
    for key in keys if isinstance(keys, dict) else ():
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"give some of {', '.join(known)}"
            raise SettingsError(f"{where}: {shown(key)} is no key of it; {hint}")


def absent(source: str, name: str, known: Iterable[str]) -> SettingsError:
    """Make the error for a name that no model of a list has."""
    known = list(known)
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(map(shown, known[:20])) or 'none'}"
    return SettingsError(f"{source}: no model in it is called {shown(name)}; {hint}")
