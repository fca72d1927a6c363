"""Find how much memory this machine has for a process, and what its CPU can do."""

from __future__ import annotations

import platform as of_python
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from .ask import ask
from .host import Host
from .host_memory import host_memory

__all__ = ["detect_host", "parse_cpuinfo", "parse_sysctl"]

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
_ARM_KEYS: Final = ("hw.optional.arm.FEAT_DotProd", "hw.optional.arm.FEAT_I8MM")


def detect_host(*, platform: str = sys.platform, root: Path = Path("/")) -> Host | None:
    """Ask this machine for its memory: what is available now, at most what its container grants; None where it does not say.

    `root` is where /proc and /sys lie. Never raises.
    """
    found = host_memory(platform=platform, root=root)
    if found is None:
        return None
    return Host(found.total_bytes, found.available_bytes, _cpu(platform, root))


def _cpu(platform: str, root: Path) -> tuple[str, ...] | None:
    if platform == "darwin":
        return parse_sysctl(ask(("sysctl", "-n", *_ARM_KEYS)).text)
    if platform == "win32":
        return ("neon",) if of_python.machine().lower() in ("arm64", "aarch64") else None
    try:
        return parse_cpuinfo((root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None


def parse_sysctl(text: str) -> tuple[str, ...] | None:
    """Read what a Mac says of its CPU, one 0 or 1 for each key; None of an Intel Mac, which has no such key."""
    flags = text.split()
    if len(flags) != len(_ARM_KEYS):
        return None
    return ("neon", *(name for name, flag in zip(("dotprod", "i8mm"), flags, strict=True) if flag == "1"))


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
