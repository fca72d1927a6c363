"""One model loaded once, as a log says it: nothing here is inferred.

In: what `reading` found. Out: frozen values. Sizes are bytes between two bounds, since a log prints rounded figures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

__all__ = [
    "COMPUTE",
    "CONTEXT",
    "HOST",
    "KINDS",
    "MODEL",
    "OUTPUT",
    "Beside",
    "Buffer",
    "Device",
    "Load",
    "Size",
    "is_host",
]

MODEL, CONTEXT, COMPUTE, OUTPUT = "model", "context", "compute", "output"
KINDS: Final = (MODEL, CONTEXT, COMPUTE)
HOST: Final = "host"
_HOST: Final = re.compile(r"(?i)(cpu|host$|.*_host$|blas|amx|accelerate|.*aarch64|.*repack|kleidiai)")
_SUFFIX: Final = re.compile(r"_(Mapped|Split|Private|Shared)$|(?<=\d)_(?=$)")
_NOTHING: Final[Mapping[Any, Any]] = MappingProxyType({})


def is_host(place: str) -> bool:
    """Whether a buffer of that name lies in host memory: CPU, CPU_Mapped, CUDA_Host, CPU_REPACK, BLAS."""
    return _HOST.match(place) is not None


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes as printed: at least `low`, at most `high`."""

    low: int
    high: int

    def __add__(self, other: Size) -> Size:
        return Size(self.low + other.low, self.high + other.high)

    @property
    def middle(self) -> int:
        """The figure itself."""
        return (self.low + self.high) // 2

    def holds(self, n_bytes: int) -> bool:
        """Whether a number of bytes prints as this."""
        return self.low <= n_bytes <= self.high


@dataclass(frozen=True, slots=True)
class Buffer:
    """A printed buffer. `place` as printed ("CUDA0", "CPU_Mapped"); `kind` is model, context, compute or output."""

    place: str
    kind: str
    size: Size

    @property
    def device(self) -> str:
        """The device it lies on: "CUDA0", or `HOST`."""
        return HOST if is_host(self.place) else _SUFFIX.sub("", self.place)

    @property
    def is_mapped(self) -> bool:
        """Whether it is a range of the mapped file, with all that lies between its tensors."""
        return self.place.endswith("_Mapped")


@dataclass(frozen=True, slots=True)
class Beside:
    """What shares the memory with the model: a projector, a draft's context, an adapter."""

    what: str
    place: str
    size: Size
    kind: str = ""  # as a `Buffer`'s, "" for what is none of these

    @property
    def device(self) -> str:
        """The device it lies on: "CUDA0", or `HOST`."""
        return HOST if is_host(self.place) else _SUFFIX.sub("", self.place)


@dataclass(frozen=True, slots=True)
class Device:
    """A card as the log describes it. Bytes are 0 and words "" where it does not say."""

    name: str  # "CUDA0"
    title: str = ""  # "NVIDIA GeForce RTX 4090"
    free: int = 0
    total: int = 0
    capability: str = ""  # "8.9", "gfx1151"


@dataclass(frozen=True, slots=True)
class Load:
    """One model loaded once.

    `facts` are the model's, under the names that llama.cpp prints (`arch`, `n_layer`, `n_head_kv`), numbers as numbers;
    `settings` are those of the context under the same names. `keys` are scalars of the header that the log lists.
    """

    line: int  # where it begins, from 1
    program: str = ""  # "llama-server", "ollama", "koboldcpp", …; "" where the log does not tell
    build: str = ""  # as a person would name it: "b9849", "ollama@0.24.0"; "" where the log does not say
    version: str = ""  # of a program with numbers of its own, such as koboldcpp's "1.98.1"
    facts: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    keys: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    settings: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    devices: tuple[Device, ...] = ()
    buffers: tuple[Buffer, ...] = ()
    beside: tuple[Beside, ...] = ()
    offloaded: tuple[int, int] | None = None  # layers on cards, layers in all (the output layer counted)
    layers: Mapping[int, str] = field(default_factory=lambda: _NOTHING)  # index of a layer → device
    moved: tuple[tuple[str, str], ...] = ()  # tensors told to lie elsewhere by name, and where
    command: str = ""  # the command line that was printed
    marks: frozenset[str] = frozenset()  # names of functions that printed, which tell the year
    own_runner: bool = False  # Ollama's own runner, not llama.cpp's graph
    projected: bool = False  # figures of a fit that allocated nothing
    notes: tuple[str, ...] = ()

    def sizes(self, device: str, kind: str) -> Size | None:
        """The sum of the buffers of a kind on a device; None where none was printed."""
        found = [b.size for b in self.buffers if b.device == device and b.kind == kind]
        return sum(found[1:], found[0]) if found else None

    @property
    def places(self) -> tuple[str, ...]:
        """The devices with buffers other than the host, in the engine's order."""
        found = dict.fromkeys(b.device for b in self.buffers if b.device != HOST)
        return tuple(sorted(found, key=_order))

    @property
    def is_complete(self) -> bool:
        """Whether weights and compute buffers were printed, without which a log was cut."""
        kinds = {b.kind for b in self.buffers}
        return MODEL in kinds and COMPUTE in kinds


def _order(name: str) -> tuple[str, int]:
    found = re.fullmatch(r"(.*?)(\d+)", name)
    return (found[1], int(found[2])) if found else (name, 0)
