"""Every error that vramfit raises on purpose.

::

    VramfitError                 catch this one
    ├── HeaderError              the bytes are not a usable GGUF header
    │   ├── Truncated            the bytes end too early; `.need` says how many are needed
    │   └── InvalidHeader        the bytes can never become a header, however many follow
    ├── SourceError              a reference cannot be read: not found, not reachable, not ours
    ├── ModelError               the header is sound, but it does not describe a model we can plan for
    │   └── UnknownArchitecture  `general.architecture` is not in the table
    ├── SettingsError            a setting that no engine has, or a value that it cannot take
    ├── ModelfileError       a Modelfile that Ollama would not accept
    ├── EngineRefusal            sound settings that the engine will not run with this model
    └── GpuError                 an unknown card, a malformed `--gpus`, a faulty catalogue

A message names the file, the field, the value and the next step, so that `str(error)` is all a
person needs. What others wrote is made printable there: a message is one line, and one more for each further
argument of an error that lists things. The command line turns any `VramfitError` into one line and exit status 1.
"""

from __future__ import annotations

from reprlib import Repr
from typing import Final

from .foreign import printable

__all__ = [
    "EngineRefusal",
    "GpuError",
    "HeaderError",
    "InvalidHeader",
    "ModelError",
    "ModelfileError",
    "SettingsError",
    "SourceError",
    "Truncated",
    "UnknownArchitecture",
    "VramfitError",
    "shown",
]

MAX_SHOWN: Final = 160  # characters of a value in a message
_BRIEF: Final = Repr()
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 60


class VramfitError(Exception):
    """The base of every error that vramfit raises on purpose: a message, and the lines of a list below it."""

    def __str__(self) -> str:
        return "\n  ".join(printable(str(x)) for x in self.args)


class HeaderError(VramfitError):
    """The bytes are not a usable GGUF header."""


class Truncated(HeaderError):
    """The bytes end inside the header.

    `need` is a number of bytes from the start of the file, larger than what was given, without
    which parsing cannot go on. It is a lower bound: parsing may ask again.
    """

    def __init__(self, message: str, need: int) -> None:
        super().__init__(message)
        self.need = need


class InvalidHeader(HeaderError):
    """The bytes break the format, or one of the named limits; more bytes would not help."""


class SourceError(VramfitError):
    """A reference cannot be turned into bytes."""


class ModelError(VramfitError):
    """The header lacks or contradicts something that the engine needs to load the model."""


class UnknownArchitecture(ModelError):
    """The header names an architecture that vramfit does not know."""


class SettingsError(VramfitError):
    """A setting does not exist or its value is out of range."""


class ModelfileError(VramfitError):
    """A Modelfile breaks the grammar, or says what Ollama would not accept; the message names the line."""


class EngineRefusal(VramfitError):
    """The engine refuses to create this context; the message gives its reason."""


class GpuError(VramfitError):
    """A card is unknown, a list of cards is malformed, or the catalogue is faulty."""


def shown(value: object) -> str:
    """Show a value in a message: short, on one line, whatever it is."""
    try:
        text = _BRIEF.repr(value)
    except Exception:  # a repr of the caller's own may do anything
        text = f"<{type(value).__name__}>"
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."
