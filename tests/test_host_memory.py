"""Host memory: the kernel's files, a container's limit, a Mac's pages; recorded outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramfit._devices.host_memory import (
    HostMemory,
    host_memory,
    parse_cgroup,
    parse_meminfo,
    parse_vm_stat,
)

KIB, GIB = 1 << 10, 1 << 30
MEMINFO = """MemTotal:       65758564 kB
MemFree:         2312196 kB
MemAvailable:   48217400 kB
Buffers:         1206236 kB
Cached:         43284880 kB
SwapTotal:       8388604 kB
HugePages_Total:       0
"""
VM_STAT = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                              118741.
Pages active:                           1001223.
Pages inactive:                          993377.
Pages speculative:                         6203.
Pages throttled:                              0.
Pages wired down:                        340112.
"""


def test_meminfo_says_what_is_there_and_what_can_be_taken() -> None:
    assert parse_meminfo(MEMINFO) == HostMemory(65758564 * KIB, 48217400 * KIB)
    old = MEMINFO.replace("MemAvailable", "Other")
    assert parse_meminfo(old) == HostMemory(65758564 * KIB, (2312196 + 43284880) * KIB)
    assert parse_meminfo("") is parse_meminfo("MemFree: 12 kB") is None


def test_a_mac_counts_pages() -> None:
    found = parse_vm_stat("34359738368\n", VM_STAT)
    assert found == HostMemory(32 * GIB, (118741 + 993377 + 6203) * 16384)
    assert parse_vm_stat("34359738368", "") == HostMemory(32 * GIB, 0)
    assert parse_vm_stat("no such key", VM_STAT) is None


def test_a_container_has_what_its_limit_leaves() -> None:
    """What files take is given back when it has to be, so it is not counted as taken."""
    host = HostMemory(64 * GIB, 40 * GIB)
    stat = f"anon 5\ninactive_file {GIB}\n"
    assert parse_cgroup(host, "max\n", str(GIB), "") == host
    assert parse_cgroup(host, f"{8 * GIB}\n", f"{3 * GIB}\n", stat) == HostMemory(
        8 * GIB, 6 * GIB, limited=True
    )
    assert parse_cgroup(host, str(60 * GIB), "0", "").available_bytes == 40 * GIB
    for limit in ("", "9223372036854771712", "-1", "0", str(64 * GIB)):
        assert parse_cgroup(host, limit, "0", "") == host


def test_linux_reads_the_files_of_its_kernel(tmp_path: Path) -> None:
    assert host_memory(platform="linux", root=tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(MEMINFO)
    assert host_memory(platform="linux", root=tmp_path) == parse_meminfo(MEMINFO)
    groups = tmp_path / "sys/fs/cgroup/memory"
    groups.mkdir(parents=True)
    (groups / "memory.limit_in_bytes").write_text(f"{4 * GIB}\n")
    (groups / "memory.usage_in_bytes").write_text(f"{3 * GIB}\n")
    (groups / "memory.stat").write_text(f"inactive_file 7\ntotal_inactive_file {GIB}\n")
    assert host_memory(platform="linux", root=tmp_path) == HostMemory(4 * GIB, 2 * GIB, limited=True)


def test_a_mac_is_asked_by_its_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("sysctl", "34359738368\n"), ("vm_stat", VM_STAT)):
        (tmp_path / name).write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert host_memory(platform="darwin") == parse_vm_stat("34359738368", VM_STAT)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert host_memory(platform="darwin") is None


def test_this_machine_says_what_it_has() -> None:
    found = host_memory()
    assert found is None or 0 < found.available_bytes <= found.total_bytes


def test_windows_is_asked_by_its_own_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's call fills a structure; where it is absent or fails nothing is known."""
    import ctypes
    from types import SimpleNamespace

    answer = 1

    def status(reference: object) -> int:
        filled = reference._obj  # type: ignore[attr-defined]
        assert filled.length == 64  # sizeof(MEMORYSTATUSEX)
        filled.total, filled.available = 32 * GIB, 20 * GIB
        return answer

    assert host_memory(platform="win32") is None
    kernel = SimpleNamespace(kernel32=SimpleNamespace(GlobalMemoryStatusEx=status))
    monkeypatch.setattr(ctypes, "windll", kernel, raising=False)
    monkeypatch.setattr(ctypes, "c_ulong", ctypes.c_uint32)  # four bytes there
    assert host_memory(platform="win32") == HostMemory(32 * GIB, 20 * GIB)
    answer = 0
    assert host_memory(platform="win32") is None


@given(st.text(), st.text(), st.text())
def test_any_text_gives_memory_that_adds_up(first: str, second: str, third: str) -> None:
    """Whatever the files hold, no more is available than there is."""
    host = HostMemory(64 * GIB, 40 * GIB)
    for found in (
        parse_meminfo(first),
        parse_vm_stat(first, second),
        parse_cgroup(host, first, second, third),
    ):
        assert found is None or 0 <= found.available_bytes <= found.total_bytes
