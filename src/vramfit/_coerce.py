"""What a caller plainly means → the noun that is needed; else an error that names the argument, the value and what is
expected. Every public function goes through here.

A model may be given as any reference that `read` takes, cards as one `Gpu` or as the words of `parse_gpus`, settings as
a mapping of their fields.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, TypeAlias, cast

from ._base import given
from ._base.errors import GpuError, ModelError, SettingsError, shown
from ._base.matches import get_close_matches
from ._base.units import parse_count, parse_size
from ._devices import MAX_GPUS, Gpu, Host, in_engine_order, parse_gpus, parse_host
from ._llama.model import Model
from ._llama.params import MAX_TOKENS, Settings

__all__ = [
    "AUTO", "AnyGpus", "AnyHost", "AnyModel", "AnySettings", "bandwidth", "call", "card", "cards", "checked_fields", "count", "flag",
    "host_of", "margin", "max_ctx", "model_of", "settings_of", "shown", "word", "words",
]  # fmt: skip

AnyModel: TypeAlias = Model | str | os.PathLike[str] | bytes | bytearray | memoryview
AnyGpus: TypeAlias = Gpu | str | Sequence[str | Gpu]
AnyHost: TypeAlias = Host | int | str | None
AnySettings: TypeAlias = Settings | Mapping[str, Any] | None

AUTO: Final = "auto"
MAX_BYTES: Final = 2**62  # of a margin
_FIELDS: Final = tuple(f.name for f in fields(Settings))


def model_of(value: AnyModel, name: str = "model") -> Model:
    """Take a model, reading it where a reference is given. Raises `ModelError`, and what `read` raises."""
    if isinstance(value, Model):
        return value
    if isinstance(value, str | os.PathLike | bytes | bytearray | memoryview):
        return cast(Model, given.call("read", value))
    raise ModelError(f"{name}={shown(value)}: give a Model, or what `read` takes: a path, a URL, a name")


def cards(value: AnyGpus, name: str = "gpus", *, most: int = MAX_GPUS) -> tuple[Gpu, ...]:
    """Take cards; one stands for a list of one, an empty list for the host alone, "auto" for those of this machine.

    Raises `GpuError`, for a backend that a card cannot have as well.
    """
    if isinstance(value, str) and value.strip().lower() == AUTO:
        from ._devices.detect import own_cards

        return own_cards()
    if isinstance(value, Gpu):
        return (value,)
    if isinstance(value, list | tuple) and all(isinstance(g, Gpu) for g in value):
        if len(value) > most:
            raise GpuError(f"{name}: {len(value)} cards; the engine takes at most {most}")
        return in_engine_order(cast("Sequence[Gpu]", value))
    if not isinstance(value, str | Sequence) or isinstance(value, bytes | bytearray | memoryview):
        raise GpuError(
            f"{name}={shown(value)}: give cards such as '3090ti,3060', a Gpu, a list of these, or 'none' for the host alone"
        )
    return parse_gpus(value)


def card(value: Gpu | str, name: str = "gpu") -> Gpu:
    """Take one card. Raises `GpuError`."""
    found = cards(value, name) if isinstance(value, Gpu | str) else ()
    if len(found) != 1:
        raise GpuError(f"{name}={shown(value)}: give one card, such as '3090ti', or a Gpu")
    return found[0]


def host_of(value: AnyHost, gpus: Sequence[Gpu] = ()) -> Host | None:
    """Take the memory of the host beside `gpus`: a `Host`, bytes, or words such as "64GiB:58GiB"; None is not known.

    Raises `GpuError`, for a card that shares the system's memory, too: it says already how much there is.
    """
    if value is None:
        return None
    shared = next((g for g in gpus if g.unified), None)
    if shared is not None:
        name = shared.id or shared.name
        raise GpuError(
            f"host={shown(value)}: {shared.name} shares the system's memory, and what it may take counts for the host as"
            f" well; leave the host out, and give the card's free memory if it is known, as in {name}:{shared.free >> 20}MiB"
        )
    if isinstance(value, Host):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return Host(value)
    if not isinstance(value, str):
        raise GpuError(f"host={shown(value)}: give a Host, bytes, or words such as '64GiB'")
    return parse_host(value)


def settings_of(value: AnySettings, name: str = "settings") -> Settings:
    """Take settings; None is the library's defaults, a mapping those under the fields named. Raises `SettingsError`."""
    if isinstance(value, Settings):
        return value
    if value is None:
        return Settings()
    if isinstance(value, Mapping):
        return Settings(**checked_fields(value, name))
    raise SettingsError(
        f"{name}={shown(value)}: give Settings, or a mapping of its fields such as {{'n_ctx': 32768}}"
    )


def checked_fields(values: Mapping[str, Any], name: str = "settings") -> dict[str, Any]:
    """Check the names of fields of `Settings`; return them as a dict. Raises `SettingsError`, with the nearest name."""
    for key in values:
        if key not in _FIELDS:
            near = get_close_matches(key, _FIELDS, n=1) if isinstance(key, str) else ()
            hint = f"did you mean {near[0]}?" if near else f"give some of {', '.join(_FIELDS)}"
            raise SettingsError(f"{name}: no setting is called {shown(key)}; {hint}")
    return dict(values)


def count(name: str, value: object, *, least: int = 0, most: int = MAX_TOKENS) -> int:
    """Take a whole number, or words such as "32k". Raises `SettingsError`."""
    found = _whole(value, parse_count)
    if found is None or not least <= found <= most:
        raise SettingsError(f"{name}={shown(value)}: give a whole number from {least} to {most}")
    return found


def max_ctx(value: object) -> int | None:
    """Take a limit of the context, or None for none but the trained length. Raises `SettingsError`."""
    return None if value is None else count("max_ctx", value, least=1)


def margin(value: object, name: str = "margin_bytes") -> int:
    """Take bytes to be left free, or a size such as "1GiB". Raises `SettingsError`."""
    if isinstance(value, str) and value.strip().isdecimal():  # bytes here, MiB on a command line
        raise SettingsError(
            f"{name}={shown(value)}: give a size with its unit, such as 1GiB, or a number of bytes"
        )
    found = _whole(value, parse_size)
    if found is None or not 0 <= found <= MAX_BYTES:
        raise SettingsError(
            f"{name}={shown(value)}: give a whole number of bytes, 0 or more, or a size such as 1GiB"
        )
    return found


def bandwidth(name: str, value: object) -> float | None:
    """Take GB/s above 0, or None. Raises `SettingsError`."""
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < cast(float, value) < math.inf:
        raise SettingsError(f"{name}={shown(value)}: give GB/s above 0")
    return float(min(cast(float, value), 1e15))


def flag(name: str, value: object) -> bool:
    """Take True or False. Raises `SettingsError`."""
    if not isinstance(value, bool):
        raise SettingsError(f"{name}={shown(value)}: give True or False")
    return value


def word(name: str, value: object) -> str:
    """Take a name. Raises `SettingsError`."""
    if not isinstance(value, str):
        raise SettingsError(f"{name}={shown(value)}: give a name, as a string")
    return value


def words(name: str, value: object) -> tuple[str, ...] | None:
    """Take names: a sequence of them, or one string with commas; None stays None. Raises `SettingsError`."""
    if value is None:
        return None
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if not isinstance(value, Sequence) or not all(isinstance(part, str) for part in value):
        raise SettingsError(f"{name}={shown(value)}: give names, such as a list of strings")
    return tuple(value)


def call(name: str, value: object) -> None:
    """Check that `value` is None or something to call. Raises `SettingsError`."""
    if value is not None and not callable(value):
        raise SettingsError(f"{name}={shown(value)}: give a function, or None")


def _whole(value: object, parse: Callable[[str], int]) -> int | None:
    """Return `value` as an int, None where it is not whole."""
    if isinstance(value, bool):
        return None
    try:
        return parse(value) if isinstance(value, str) else operator.index(cast(Any, value))
    except (TypeError, SettingsError):
        return None
