"""How much memory this machine has, and how much of it a program can take now."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .ask import ask

__all__ = ["HostMemory", "host_memory", "parse_cgroup", "parse_meminfo", "parse_vm_stat"]

KIB: Final = 1 << 10
_LINE: Final = re.compile(r"^(\w+):\s+(\d{1,15}) kB\s*$", re.MULTILINE)
_PAGES: Final = re.compile(r"^Pages (free|inactive|speculative):\s+(\d{1,15})\.\s*$", re.MULTILINE)
_PAGE_SIZE: Final = re.compile(r"page size of (\d{4,6}) bytes")
_CGROUPS: Final = (  # limit, use, and what of the use is files that the kernel drops when it has to
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Memory of a machine in bytes: all of it, and what a program can take without anything being swapped out.

    `limited` says that a container's limit counts, not the machine's memory.
    """

    total_bytes: int
    available_bytes: int
    limited: bool = False


def host_memory(*, platform: str = sys.platform, root: Path = Path("/")) -> HostMemory | None:
    """Measure the memory of this machine; None where it does not say. Never raises.

    Reads /proc/meminfo and the limits of a container, asks `sysctl` and `vm_stat` on a Mac, and Windows itself. `root` is
    where /proc and /sys lie.
    """
    if platform == "darwin":
        return parse_vm_stat(ask(("sysctl", "-n", "hw.memsize")).text, ask(("vm_stat",)).text)
    if platform == "win32":
        return _windows()
    found = parse_meminfo(_read(root / "proc/meminfo"))
    if found is None:
        return None
    folder = root / "sys/fs/cgroup"
    for limit, used, stat, dropped in _CGROUPS:
        found = parse_cgroup(
            found, _read(folder / limit), _read(folder / used), _read(folder / stat), dropped
        )
    return found


def parse_meminfo(text: str) -> HostMemory | None:
    """Read /proc/meminfo; kernels before 3.14 have no `MemAvailable`, so that what is free and cached counts."""
    values = {name: int(kib) * KIB for name, kib in _LINE.findall(text)}
    total = values.get("MemTotal", 0)
    if not total:
        return None
    available = values.get("MemAvailable", values.get("MemFree", 0) + values.get("Cached", 0))
    return HostMemory(total, min(available, total))


def parse_cgroup(
    found: HostMemory, limit: str, used: str, stat: str, dropped: str = "inactive_file"
) -> HostMemory:
    """Lower a machine's memory to the limit of the container that this process runs in, if it has one.

    The three texts are the kernel's files of that name: bytes or "max", bytes, and lines of a name and bytes.
    """
    most = _whole(limit)
    if most is None or not 0 < most < found.total_bytes:
        return found
    files = re.search(rf"^{dropped} (\d{{1,19}})\s*$", stat, re.MULTILINE)
    taken = max(0, (_whole(used) or 0) - (int(files[1]) if files else 0))
    return HostMemory(most, min(found.available_bytes, max(0, most - taken)), limited=True)


def parse_vm_stat(memsize: str, vm_stat: str) -> HostMemory | None:
    """Read the number of `sysctl -n hw.memsize`, and what `vm_stat` says is free, inactive or read ahead."""
    total, size = _whole(memsize), _PAGE_SIZE.search(vm_stat)
    if not total:
        return None
    pages = sum(int(n) for _, n in _PAGES.findall(vm_stat))
    return HostMemory(total, min(total, pages * int(size[1])) if size else 0)


def _whole(text: str) -> int | None:
    bare = text.strip()
    return int(bare) if bare.isascii() and bare.isdecimal() and len(bare) < 20 else None


def _read(path: Path) -> str:
    """Up to 64 KiB of a kernel's file; "" where there is none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(64 * KIB)
    except OSError:
        return ""


def _windows() -> HostMemory | None:
    """Ask Windows: GlobalMemoryStatusEx."""
    import ctypes

    kernel = getattr(getattr(ctypes, "windll", None), "kernel32", None)
    names = (
        "total",
        "available",
        "total_page",
        "available_page",
        "total_virtual",
        "available_virtual",
        "extended",
    )

    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in names),
        )

    status = Status()
    status.length = ctypes.sizeof(Status)
    if kernel is None or not kernel.GlobalMemoryStatusEx(ctypes.byref(status)) or not status.total:
        return None
    return HostMemory(status.total, min(status.available, status.total))
