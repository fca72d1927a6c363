"""`Gpu`: one device with the memory that a plan may count on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from .._base.errors import GpuError, shown

__all__ = [
    "BACKENDS",
    "MAX_GPUS",
    "RPC_PORT",
    "Gpu",
    "assumed",
    "check_count",
    "is_host",
    "numbered",
    "told_apart",
]

BACKENDS: Final = ("cuda", "hip", "vulkan", "metal", "sycl", "cpu")
MAX_GPUS: Final = 16  # GGML_CUDA_MAX_DEVICES and llama_max_devices, llama.cpp:86
MAX_BYTES: Final = 2**53  # JSON readers keep whole numbers up to here
MAX_ALIGNMENT: Final = 256  # minStorageBufferOffsetAlignment is no larger on any card of Vulkan
MAX_HOST_ALIGNMENT: Final = 65536
LEAST_LIMIT: Final = 1 << 27  # maxStorageBufferRange is no smaller on any card of Vulkan
LEAST_LINK: Final = 1e-6  # Gbit/s of a network
MOST_LINK: Final = 1e6
RPC_PORT: Final = 50052  # where an rpc-server listens unless it is told another, rpc-server.cpp
# A name or an address of a machine, and a port; none with colons of its own: the engine cuts at the first (ggml-rpc.cpp:313).
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?(:([1-9]\d{0,4}))?")
CUDA_CAPABILITY: Final = re.compile(r"[1-9]\d?\.\d")  # major.minor, as nvidia-smi prints it


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device. Sizes are bytes, bandwidth is 10^9 bytes a second.

    `total_bytes` is what the engine's backend reports as the size of the device, which is less
    than the size on the box. `free_bytes` is what a process finds free just before it loads a
    model; left out, it is `total_bytes - overhead_bytes` and `free_measured` is False.

    Raises `GpuError` for a value that no device has.
    """

    name: str
    total_bytes: int
    free_bytes: int | None = None
    backend: str = "cuda"
    bandwidth_gbs: float | None = None
    compute_capability: str | None = None  # "8.6" of CUDA, "gfx1100" of HIP; None: not known
    alignment: int | None = None  # bytes, of tensors: what Vulkan's driver reports (16); None: not known
    host_alignment: int | None = None  # bytes, of pinned host memory: what Vulkan's driver reports (64, 4096)
    max_tensor_bytes: int | None = (
        None  # the largest that Vulkan's driver lets a shader read; None: not known
    )
    reached_tensor_bytes: int | None = (
        None  # what Vulkan's driver reaches at the least, where its limit is not known
    )
    fp16: bool = True  # whether shaders of Vulkan have 16-bit floats
    max_buffer_bytes: int | None = None  # the largest of Vulkan, Metal and SYCL; None: not known
    overhead_bytes: int = 0  # set aside for the process's own driver context; already out of `free`
    free_measured: bool | None = None  # None: whether `free_bytes` was given
    unified: bool = False  # shares the system's memory
    id: str | None = None  # of the catalogue
    host: str = ""  # the machine that it is in, NAME or NAME:PORT; "": where the engine runs
    remote: bool = False  # reached over the network: an rpc-server runs on `host`
    link_gbits: float | None = None  # of the network to it, 10^9 bits a second; None: not known
    assumed: str = field(default="", compare=False)  # what was taken for granted of a name, in a sentence

    def __post_init__(self) -> None:
        """Check each field, then resolve the two that may be left out."""
        if not isinstance(self.name, str) or not self.name.strip() or not self.name.isprintable():
            raise GpuError(f"name={shown(self.name)}: give the card a printable name")
        if not isinstance(self.backend, str) or self.backend not in BACKENDS:
            raise GpuError(f"{self.name}: backend={shown(self.backend)}: give one of {', '.join(BACKENDS)}")
        self._check_bytes("total_bytes", self.total_bytes, 1, MAX_BYTES)
        self._check_bytes("overhead_bytes", self.overhead_bytes, 0, self.total_bytes)
        self._check_limits()
        if self.bandwidth_gbs is not None and not (_is_number(self.bandwidth_gbs) and self.bandwidth_gbs > 0):
            raise GpuError(
                f"{self.name}: bandwidth_gbs={shown(self.bandwidth_gbs)}: give GB/s above 0, or None"
            )
        if not isinstance(self.unified, bool) or not isinstance(self.free_measured, bool | None):
            raise GpuError(f"{self.name}: unified and free_measured: give True or False")
        if not isinstance(self.fp16, bool):
            raise GpuError(f"{self.name}: fp16={shown(self.fp16)}: give True or False")
        if not isinstance(self.remote, bool):
            raise GpuError(f"{self.name}: remote={shown(self.remote)}: give True or False")
        if not isinstance(self.host, str) or (self.host and not is_host(self.host)):
            raise GpuError(f"{self.name}: host={shown(self.host)}: give a machine as NAME or NAME:PORT")
        if self.remote and not self.host:
            raise GpuError(
                f"{self.name}: remote, but host is empty: say on which machine its rpc-server runs"
            )
        if self.link_gbits is not None and not (
            _is_number(self.link_gbits) and LEAST_LINK <= self.link_gbits <= MOST_LINK
        ):
            raise GpuError(
                f"{self.name}: link_gbits={shown(self.link_gbits)}: give {LEAST_LINK:g} to {MOST_LINK:g} Gbit/s, or None"
            )
        if not isinstance(self.id, str | None):
            raise GpuError(f"{self.name}: id={shown(self.id)}: give the card's id in the catalogue, or None")
        if not _is_capability(self.compute_capability, self.backend):
            raise GpuError(
                f'{self.name}: compute_capability={shown(self.compute_capability)}: give text such as "8.6" (CUDA) or "gfx1100" (HIP), or None'
            )
        if self.free_measured is None:
            object.__setattr__(self, "free_measured", self.free_bytes is not None)
        if self.free_bytes is None:
            object.__setattr__(self, "free_bytes", self.total_bytes - self.overhead_bytes)
        self._check_bytes("free_bytes", self.free_bytes, 0, self.total_bytes)

    @property
    def built_in(self) -> bool:
        """Whether it comes with its computer: a laptop's chip, or one that shares the system's memory."""
        return self.unified or "laptop" in self.name.lower()

    @property
    def endpoint(self) -> str:
        """Where its rpc-server listens, as `--rpc` takes it; "" where the engine runs."""
        if not self.remote:
            return ""
        return self.host if ":" in self.host else f"{self.host}:{RPC_PORT}"

    @property
    def free(self) -> int:
        """Bytes that a process finds free before it loads a model."""
        assert self.free_bytes is not None  # set by __post_init__
        return self.free_bytes

    def _check_capability(self) -> None:
        value = self.compute_capability
        if value is None:
            return
        sound = isinstance(value, str) and value.strip() and value.isprintable()
        if not sound or (self.backend == "cuda" and not CUDA_CAPABILITY.fullmatch(value)):
            raise GpuError(
                f'{self.name}: compute_capability={value!r}: give text such as "8.6" (CUDA) or "gfx1100" (HIP), or None'
            )

    def _check_limits(self) -> None:
        """Check what a driver reports of tensors and buffers."""
        for name, most, limit in (
            ("alignment", MAX_ALIGNMENT, "minStorageBufferOffsetAlignment"),
            ("host_alignment", MAX_HOST_ALIGNMENT, "minMemoryMapAlignment"),
        ):
            value = getattr(self, name)
            if value is not None:
                self._check_bytes(name, value, 1, most)
                if value & (value - 1):
                    raise GpuError(
                        f"{self.name}: {name}={value}: give a power of two, as vulkaninfo prints {limit}"
                    )
        for name in ("max_tensor_bytes", "reached_tensor_bytes", "max_buffer_bytes"):
            if getattr(self, name) is not None:
                self._check_bytes(name, getattr(self, name), LEAST_LIMIT, MAX_BYTES)

    def _check_bytes(self, field: str, value: object, low: int, high: int) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise GpuError(f"{self.name}: {field}={shown(value)}: give a whole number of bytes")
        if not low <= value <= high:
            hint = ", the size of the card" if field != "total_bytes" else ""
            raise GpuError(f"{self.name}: {field}={shown(value)}: give {low} to {high} bytes{hint}")


def is_host(text: str) -> bool:
    """Whether it can name a machine, with or without a port."""
    found = _HOST.fullmatch(text)
    return found is not None and int(found[3] or 1) < 1 << 16


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value < float("inf")


def _is_capability(value: object, backend: str) -> bool:
    """Whether it is none, or text; CUDA's are numbers, which are compared."""
    if value is None:
        return True
    return isinstance(value, str) and (
        backend != "cuda" or re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3})?", value) is not None
    )


def assumed(gpus: Sequence[Gpu]) -> tuple[str, ...]:
    """List what was taken for granted when the cards were named, a sentence each."""
    return tuple(dict.fromkeys(g.assumed for g in gpus if g.assumed))


def told_apart(gpus: Sequence[Gpu]) -> tuple[str, ...]:
    """Give each card a name that no other has: cards of one model are numbered, as in "RTX 3090 #2".

    Where there are several machines, each begins with that of its own, as in "mini/Apple M2 Ultra".
    """
    several = any(g.remote for g in gpus)
    return numbered([f"{g.host}/{g.name}" if several and g.host else g.name for g in gpus])


def numbered(names: Sequence[str]) -> tuple[str, ...]:
    """Give each a name that no other has: those that are equal are numbered, as in "RTX 3090 #2"."""
    found: list[str] = []
    for i, name in enumerate(names):
        number = names[:i].count(name) + 1
        own = name if names.count(name) == 1 else f"{name} #{number}"
        while own != name and own in (*names, *found):  # somebody called a card "RTX 3090 #2"
            number += 1
            own = f"{name} #{number}"
        found.append(own)
    return tuple(found)


def check_count(gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """Return the cards as a tuple; raises `GpuError` for more than the engine takes."""
    if len(gpus) > MAX_GPUS:
        raise GpuError(f"{len(gpus)} cards; the engine takes at most {MAX_GPUS}")
    return tuple(gpus)
