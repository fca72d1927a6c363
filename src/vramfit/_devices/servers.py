"""Ask rpc-servers that run what they have: free memory now, alignment and largest buffer of each device.

In: cards of other machines. Out: the same cards with the figures of their servers. Nothing is allocated there, and
a server that says nothing in time is an error. The messages: ggml-rpc.cpp:75-200 of the pinned build.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Final

from .._base.errors import GpuError, shown
from .machines import machines
from .noun import LEAST_LIMIT, MAX_ALIGNMENT, MAX_BYTES, MAX_GPUS, Gpu
from .spec import parse_gpus

__all__ = ["Offer", "ask_servers", "offers"]

PATIENCE: Final = 5.0  # seconds for all answers of one server
PROTOCOL: Final = 7  # RPC_PROTO_MAJOR_VERSION, ggml-rpc.h:9
_CAPABILITIES: Final = 24  # bytes that a hello carries each way, transport.h
_ALIGNMENT, _LARGEST, _MEMORY, _HELLO, _COUNT = 1, 2, 11, 14, 15
_LIMITED: Final = frozenset({"vulkan", "metal", "sycl"})  # whose largest buffer counts


@dataclass(frozen=True, slots=True)
class Offer:
    """One device of a server, in bytes."""

    free: int
    total: int
    alignment: int
    max_buffer: int


def ask_servers(gpus: Gpu | str | Sequence[str | Gpu], patience: float = PATIENCE) -> tuple[Gpu, ...]:
    """Give each card of another machine the memory that its rpc-server finds free now.

    A server's devices are those named for its machine, in that order. Waits `patience` seconds for each server, at most.
    Raises `GpuError` for one that does not answer, that speaks another version, or that has other devices than were named.
    """
    sound = isinstance(patience, (int, float)) and not isinstance(patience, bool) and 0 < patience <= 3600
    if not sound:
        raise GpuError(f"patience={shown(patience)}: give seconds above 0, an hour at most")
    found = list(parse_gpus(gpus))
    for machine in machines(found):
        if not machine.endpoint:
            continue
        offered = offers(machine.endpoint, patience)
        if len(offered) != len(machine.gpus):
            raise GpuError(
                f"{machine.endpoint}: the rpc-server has {len(offered)} devices, and {len(machine.gpus)} cards of {machine.name}"
                " are named; name all, or start it with -d and those that are"
            )
        for i, offer in zip(machine.gpus, offered, strict=True):
            found[i] = _with(found[i], offer)
    return tuple(found)


def _with(gpu: Gpu, offer: Offer) -> Gpu:
    """A card as its server sees it. A limit that no device has is left out."""
    if not 0 < offer.total <= MAX_BYTES or offer.free > offer.total:
        raise GpuError(
            f"{gpu.endpoint}: {offer.free} of {offer.total} bytes free is no memory of a card; is it an rpc-server of llama.cpp?"
        )
    more: dict[str, Any] = {}
    if gpu.backend == "vulkan" and 0 < offer.alignment <= MAX_ALIGNMENT:
        more["alignment"] = offer.alignment
    if gpu.backend in _LIMITED and LEAST_LIMIT <= offer.max_buffer <= MAX_BYTES:
        more["max_buffer_bytes"] = offer.max_buffer
    return replace(
        gpu, total_bytes=offer.total, free_bytes=offer.free, free_measured=True, overhead_bytes=0, **more
    )


def offers(endpoint: str, patience: float = PATIENCE) -> tuple[Offer, ...]:
    """List the devices of the server at "host:port". Raises `GpuError`."""
    host, _, port = endpoint.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=patience) as connection:
            return _asked(_Line(connection, monotonic() + patience), endpoint)
    except TimeoutError:
        raise GpuError(f"{endpoint}: no rpc-server answers within {patience:g} s{_HINT}") from None
    except (OSError, EOFError, UnicodeError) as e:
        raise GpuError(f"{endpoint}: no rpc-server answers ({_reason(e)}){_HINT}") from None


_HINT: Final = "; start ggml-rpc-server there, or plan without asking"


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "the line was closed"


class _Line:
    """A connection whose answers must all be here in time."""

    def __init__(self, connection: socket.socket, until: float) -> None:
        self._connection, self._until = connection, until

    def ask(self, command: int, words: bytes, answer: struct.Struct) -> tuple[int, ...]:
        """Send a command and take its answer apart: a length, and so many bytes."""
        self._connection.sendall(struct.pack("<BQ", command, len(words)) + words)
        (length,) = struct.unpack("<Q", self._read(8))
        if length != answer.size:
            raise EOFError
        return answer.unpack(self._read(length))

    def _read(self, n: int) -> bytes:
        found = b""
        while len(found) < n:
            left = self._until - monotonic()
            if left <= 0:
                raise TimeoutError
            self._connection.settimeout(left)
            part = self._connection.recv(n - len(found))
            if not part:
                raise EOFError
            found += part
        return found


def _asked(line: _Line, endpoint: str) -> tuple[Offer, ...]:
    major, *_ = line.ask(_HELLO, bytes(_CAPABILITIES), struct.Struct(f"<4B{_CAPABILITIES}x"))
    if major != PROTOCOL:
        raise GpuError(
            f"{endpoint}: the rpc-server speaks version {major}, llama-server of the planned build {PROTOCOL}; run the same build on both"
        )
    (count,) = line.ask(_COUNT, b"", struct.Struct("<I"))
    if not 0 < count <= MAX_GPUS:
        raise GpuError(f"{endpoint}: the rpc-server has {count} devices; llama-server takes 1 to {MAX_GPUS}")
    found = []
    for i in range(count):
        device = struct.pack("<I", i)
        free, total = line.ask(_MEMORY, device, struct.Struct("<2Q"))
        (alignment,) = line.ask(_ALIGNMENT, device, struct.Struct("<Q"))
        (largest,) = line.ask(_LARGEST, device, struct.Struct("<Q"))
        found.append(Offer(free, total, alignment, largest))
    return tuple(found)
