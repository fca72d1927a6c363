"""What the tools of this machine say of its cards, before anything is made of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from ..._base.foreign import printable
from ..ask import TIMEOUT_S, Answer, ask
from ..noun import Gpu

__all__ = ["Asked", "Found", "Here", "Report", "Seen", "User", "number"]

MOST: Final = 1 << 50  # bytes of a card: what is above is no size
NAME: Final = 80  # characters of a name that a driver or a program gives


@dataclass(frozen=True)
class Here:
    """The machine that is asked: `root` is where /proc and /sys lie, `environ` the environment of its programs."""

    platform: str = sys.platform
    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: MappingProxyType(dict(os.environ)))
    timeout_s: float = TIMEOUT_S

    def ask(self, *command: str, timeout_s: float | None = None) -> Answer:
        """Run a program of this machine."""
        return ask(command, timeout_s=timeout_s or self.timeout_s, environ=self.environ)

    def read(self, path: str | Path, most: int = 1 << 16) -> str:
        """Read up to `most` characters of a file below `root`; "" where there is none."""
        try:
            with (self.root / path).open(encoding="utf-8", errors="replace") as file:
                return file.read(most)
        except (OSError, ValueError):
            return ""

    def number(self, path: str | Path) -> int | None:
        """Read a file that holds one whole number."""
        return number(self.read(path, 64))


@dataclass(frozen=True, slots=True)
class User:
    """A program that holds memory of a card; `n_bytes` is None where the driver does not say how much."""

    name: str
    n_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """A card as one source reports it. Sizes are bytes; None: the source does not say.

    `free_bytes` is what nobody holds. `by_engine`: both sizes are those that the engine prints, so `backend` is the
    engine's, and its own context is out of them. `vendor` is one of the catalogue's, "" where it is not known.
    """

    name: str
    vendor: str
    total_bytes: int | None = None
    free_bytes: int | None = None
    backend: str = ""
    compute_capability: str | None = None
    bus: str = ""  # "0000:01:00.0"
    uuid: str = ""
    unified: bool = False
    screen: bool = False
    by_engine: bool = False
    driver: str = ""  # of Vulkan, by the catalogue's word for it; "": not known
    fp16: bool | None = None  # whether its shaders have 16-bit floats
    users: tuple[User, ...] = ()
    notes: tuple[str, ...] = ()
    others: tuple[Seen, ...] = ()  # of a divided card: the instances that the environment may name instead

    def __post_init__(self) -> None:
        """Keep the name printable and short, and sizes within what a card can have: they are a driver's."""
        for size in ("total_bytes", "free_bytes"):
            if not 0 <= (getattr(self, size) or 0) <= MOST:
                object.__setattr__(self, size, None)
        object.__setattr__(self, "name", printable(" ".join(self.name.split()), NAME) or "GPU")


@dataclass(frozen=True, slots=True)
class Asked:
    """One source that was asked for cards, and what came of it.

    `failure` says why it cannot be relied on, "" where it answered; `missing`: it is not installed, which is no fault.
    `advice` says what to do about it.
    """

    source: str
    n_cards: int = 0
    missing: bool = False
    failure: str = ""
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What one source answered."""

    asked: Asked
    seen: tuple[Seen, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """The cards of this machine in the engine's order, what each source said, and what to know of it.

    `gpus` and `seen` belong together, card by card. `lacking` says which cards the engine at hand does not use, and
    what to do about that.
    """

    gpus: tuple[Gpu, ...] = ()
    seen: tuple[Seen, ...] = ()
    asked: tuple[Asked, ...] = ()
    notes: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()


def number(text: str) -> int | None:
    """Read a whole number of at most 19 digits, as the kernel prints it; None for anything else."""
    bare = text.strip()
    return int(bare) if bare.isascii() and bare.isdecimal() and len(bare) < 20 else None
