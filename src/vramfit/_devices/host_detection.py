"""Find how much memory this machine has for a process, and what its CPU can do."""

from __future__ import annotations

import platform
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from .host import Host

__all__ = ["detect_host", "parse_cpuinfo", "parse_meminfo"]

_MEMINFO: Final = "/proc/meminfo"
_CPUINFO: Final = "/proc/cpuinfo"
_CGROUPS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
# words of /proc/cpuinfo that a feature needs: AVX-512 as ggml_cpu_has_avx512 has it, AMX as amx.cpp is compiled for
_WORDS: Final = {
    "avx2": {"avx2"},
    "avx512": {"avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"},
    "amx": {"amx_int8", "avx512_vnni"},
    "neon": {"asimd"},
    "dotprod": {"asimddp"},
    "i8mm": {"i8mm"},
    "vxe": {"vxe"},
}

_STATUS: Final = "=IIQQQQQQQ"  # MEMORYSTATUSEX: its length, load, total, available, ...


def detect_host() -> Host | None:
    """Ask this machine for its memory: what is available now, at most what its control group grants; None where it does not say.

    Never raises.
    """
    if sys.platform.startswith("linux"):
        return _linux()
    if sys.platform == "darwin":
        return _mac()
    return _windows() if sys.platform == "win32" else None


def _linux() -> Host | None:
    found = parse_meminfo(_text(_MEMINFO))
    if found is None:
        return None
    total, available = found
    limits = [int(text) for text in map(str.strip, map(_text, _CGROUPS)) if text.isdecimal()]
    total = min([total, *(n for n in limits if n > 0)])
    return Host(total, min(available, total), parse_cpuinfo(_text(_CPUINFO)))


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def parse_meminfo(text: str) -> tuple[int, int] | None:
    """Read total and available bytes of /proc/meminfo; None where it does not hold them."""
    values = dict(line.split()[:2] for line in text.splitlines() if len(line.split()) > 1)
    total, available = (values.get(name, "") for name in ("MemTotal:", "MemAvailable:"))
    if not (total.isdecimal() and available.isdecimal() and 0 < int(total) < 1 << 40):
        return None
    return int(total) << 10, min(int(available), int(total)) << 10


def parse_cpuinfo(text: str) -> tuple[str, ...] | None:
    """Read the features of /proc/cpuinfo that weights depend on; None where it lists none.

    How wide SVE's vectors are is not there, so that SVE is not taken to be of 256 bits.
    """
    for line in text.splitlines():
        key, _, words = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            return _features(words.lower().split())
    return None


def _features(words: Iterable[str]) -> tuple[str, ...]:
    known = set(words)
    return tuple(name for name, needed in _WORDS.items() if needed <= known)


def _mac() -> Host | None:
    from .detection import _run

    words = _run(("sysctl", "-n", "hw.memsize", "hw.optional.arm.FEAT_DotProd", "hw.optional.arm.FEAT_I8MM"))
    size, *flags = [*words.split(), "", ""][:3]
    if not size.isdecimal() or not 0 < int(size) < 1 << 52:
        return None
    if not flags[0]:  # an Intel Mac has no such key
        return Host(int(size))
    arm = [name for name, flag in zip(("dotprod", "i8mm"), flags, strict=True) if flag == "1"]
    return Host(int(size), None, ("neon", *arm))


def _windows() -> Host | None:
    import ctypes

    size = struct.calcsize(_STATUS)
    status = ctypes.create_string_buffer(struct.pack(_STATUS, size, *[0] * 8), size)
    library: Any = getattr(ctypes, "windll", None)
    try:
        done = library.kernel32.GlobalMemoryStatusEx(status)
    except (AttributeError, OSError):
        return None
    total, available = struct.unpack(_STATUS, status.raw)[2:4]
    if not done or not 0 < total < 1 << 52:
        return None
    arm = platform.machine().lower() in ("arm64", "aarch64")
    return Host(total, min(available, total), ("neon",) if arm else None)
