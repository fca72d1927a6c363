"""This machine's cards: recorded outputs of real tools, and machines made of fake programs and files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from small import dense

import vramfit
from vramfit._base.errors import GpuError
from vramfit._cli import main
from vramfit._devices.detect import Here, Seen, User, detect_gpus, find_cards, own_cards
from vramfit._devices.detect.amd import ask_amdsmi, gfx_name, parse_kfd, parse_rocm_smi
from vramfit._devices.detect.apple import parse_sysctl
from vramfit._devices.detect.engine import parse_devices
from vramfit._devices.detect.fdinfo import parse_fdinfo
from vramfit._devices.detect.gpus import gpu_of, taken_sentence
from vramfit._devices.detect.intel import parse_xpu_smi
from vramfit._devices.detect.merge import merged, once_each, used
from vramfit._devices.detect.nouns import number
from vramfit._devices.detect.nvidia import ask_nvml, ask_smi, parse_list, parse_query, parse_table
from vramfit._devices.detect.pci import parse_amdgpu_ids, parse_pci_ids
from vramfit._devices.detect.visible import chosen, visible
from vramfit._devices.host_memory import HostMemory

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
DATA = Path(__file__).parent / "data" / "detect"
EXAMPLE = str(Path(__file__).parents[1] / "examples" / "gemma-3-12b-q4_k_m.gguf")


def recorded(name: str) -> str:
    return (DATA / name).read_text(encoding="utf-8")


class Machine:
    """A machine of fake programs, which print what was recorded, and of files of a kernel."""

    def __init__(self, root: Path, *, bare: bool = False) -> None:
        self.root, self.bin = root, root / "bin"
        self.bin.mkdir()
        if not bare:
            self.file("proc/meminfo", f"MemTotal: {64 << 20} kB\nMemAvailable: {48 << 20} kB\n")

    def program(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def prints(self, name: str, text: str, status: int = 0) -> None:
        """A program that always prints the same."""
        self.file(f"{name}.out", text)
        self.program(name, f"cat '{self.root / name}.out'; exit {status}")

    def file(self, path: str, text: str) -> None:
        where = self.root / path
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(text, encoding="utf-8")

    def card(self, bus: str, vendor: int, device: int, revision: int = 0, **files: int) -> None:
        folder = f"sys/bus/pci/devices/{bus}"
        values = {"class": 0x030000, "vendor": vendor, "device": device, "revision": revision}
        for name, value in values.items():
            self.file(f"{folder}/{name}", f"{value:#06x}\n")
        for name, value in files.items():
            self.file(f"{folder}/{name}", f"{value}\n")

    def process(self, pid: int, name: str, fdinfo: str, target: str = "/dev/dri/renderD128") -> None:
        self.file(f"proc/{pid}/comm", f"{name}\n")
        self.file(f"proc/{pid}/fdinfo/9", fdinfo)
        link = self.root / f"proc/{pid}/fd/9"
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(target)

    def here(self, platform: str = "linux", timeout_s: float = 5, **environ: str) -> Here:
        path = f"{self.bin}:/usr/bin:/bin"
        return Here(platform, self.root, {"PATH": path, **environ}, timeout_s)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# --- NVIDIA


def test_the_table_of_a_query_is_read_by_its_head() -> None:
    """Columns stand in any order, with units; a card without a figure of memory is still a card."""
    (card,) = parse_query(recorded("nvidia-smi-desktop.csv"))
    assert (card.name, card.total_bytes, card.free_bytes) == ("NVIDIA GeForce RTX 5080", 16303 * MIB, None)
    assert (card.bus, card.compute_capability, card.uuid[:12]) == ("0000:06:10.0", "12.0", "GPU-49dacec4")
    many = parse_query(recorded("nvidia-smi-a800.csv"))
    assert [c.free_bytes for c in many] == [8404 * MIB, 12549 * MIB, 67547 * MIB]
    assert [c.total_bytes for c in parse_query(recorded("nvidia-smi-1080ti.csv"))] == [
        11178 * MIB,
        11176 * MIB,
    ]
    (spark,) = parse_query(recorded("nvidia-smi-gb10.csv"))
    assert (spark.name, spark.total_bytes, spark.free_bytes) == ("NVIDIA GB10", None, None)


@pytest.mark.parametrize(
    "name",
    [
        "nvidia-smi-gb10-nameless.csv",
        "nvidia-smi-mismatch.txt",
        "nvidia-smi-no-driver.txt",
        "nvidia-smi-old-driver.txt",
    ],
)
def test_what_is_no_table_of_cards_is_no_card(name: str) -> None:
    assert parse_query(recorded(name)) == ()
    assert parse_query("name\n" + "x" * 200_000) == ()  # more than a table's cell can hold


def test_who_holds_memory_is_read_from_the_table() -> None:
    users, slices = parse_table(recorded("nvidia-smi-desktop-table.txt"))
    assert users[0][:2] == (User("Xorg", 183 * MIB), User("gnome-shell", 244 * MIB))
    assert len(users[0]) == 4
    assert not slices
    old, _ = parse_table(recorded("nvidia-smi-387-table.txt"))
    assert old[0] == (User("Xorg", 199 * MIB), User("compiz", 95 * MIB), User("python3", 11511 * MIB))
    many, _ = parse_table(recorded("nvidia-smi-a800-table.txt"))
    assert (sorted(many), many[6]) == ([0, 1, 6], (User("python3", 69 * MIB),))
    windows = r"|    0   N/A  N/A      6204    C+G   C:\Windows\explorer.exe         N/A      |"
    assert parse_table(windows)[0] == {0: (User("explorer.exe", None),)}


def test_instances_of_mig_are_read() -> None:
    _, slices = parse_table(recorded("nvidia-smi-mig-table.txt"))
    assert slices == {1: tuple((19968 * MIB, (19968 - n) * MIB) for n in (14366, 9826, 13))}
    names = parse_list(recorded("nvidia-smi-mig-list.txt"))
    assert names[0][1] == ("1g.5gb", "MIG-3d4db13e-c42d-5555-98f4-8b50389791bc")


MIG = """name, uuid, memory.total [MiB], memory.free [MiB], mig.mode.current
NVIDIA A100-SXM4-40GB, GPU-0, 40536 MiB, 40000 MiB, Disabled
NVIDIA A100-SXM4-40GB, GPU-1, 40536 MiB, 9000 MiB, Enabled
NVIDIA A100-SXM4-40GB, GPU-2, 40536 MiB, 9000 MiB, Enabled
"""


def test_of_a_divided_card_a_process_gets_one_instance(machine: Machine) -> None:
    """Its memory is the instance's, and a card without an instance is not one to plan for."""
    machine.file("query", MIG)
    machine.file("table", recorded("nvidia-smi-mig-table.txt"))
    machine.file("list", "GPU 1: NVIDIA A100 (UUID: GPU-1)\n  MIG 3g.20gb     Device  0: (UUID: MIG-a)\n")
    choice = f'case "$1" in --query*) cat {machine.root}/query;; -L) cat {machine.root}/list;; *) cat {machine.root}/table;; esac'
    machine.program("nvidia-smi", choice)
    whole, part, none = ask_smi(machine.here()).seen
    assert (whole.total_bytes, whole.notes) == (40536 * MIB, ())
    assert (part.name, part.uuid) == ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", "MIG-a")
    assert (part.total_bytes, part.free_bytes) == (19968 * MIB, (19968 - 14366) * MIB)
    assert none.total_bytes is None
    found = find_cards(machine.here(CUDA_VISIBLE_DEVICES="MIG-a"))
    assert [g.total_bytes for g in found.gpus] == [19968 * MIB]
    machine.file("list", "GPU 1: NVIDIA A100 (UUID: GPU-1)\n" + "".join(
        f"  MIG 3g.20gb     Device  {i}: (UUID: MIG-{x})\n" for i, x in enumerate("abc")))  # fmt: skip
    (second,) = find_cards(machine.here(CUDA_VISIBLE_DEVICES="MIG-b")).seen
    assert second.free_bytes == (19968 - 9826) * MIB
    assert len(find_cards(machine.here(CUDA_VISIBLE_DEVICES="0,1")).gpus) == 2
    assert "one of 3 MIG instances" in found.gpus[0].assumed
    assert "CUDA_VISIBLE_DEVICES" in found.notes[0]


def test_an_old_driver_is_asked_for_what_it_knows(machine: Machine) -> None:
    machine.file("old", recorded("nvidia-smi-old-driver.txt"))
    machine.file("known", recorded("nvidia-smi-1080ti.csv"))
    machine.program(
        "nvidia-smi",
        f'case "$1" in *compute_cap*) cat {machine.root}/old; exit 2;; --query*) cat {machine.root}/known;; esac',
    )
    found = find_cards(machine.here())
    assert [(g.id, g.compute_capability) for g in found.gpus] == [("gtx-1080-ti", "6.1")] * 2
    assert [s.free_bytes for s in found.seen] == [10403 * MIB, 3551 * MIB]


@pytest.mark.parametrize(
    ("name", "status", "advice"),
    [
        ("nvidia-smi-mismatch.txt", 18, "restart the machine"),
        ("nvidia-smi-no-driver.txt", 9, "modprobe nvidia"),
    ],
)
def test_a_driver_that_does_not_work_is_told_with_what_helps(
    machine: Machine, name: str, status: int, advice: str
) -> None:
    machine.prints("nvidia-smi", recorded(name), status)
    with pytest.raises(GpuError, match=r"no cards found.*nvidia-smi: exit status"):
        own_cards(None, machine.here())
    (asked,) = (a for a in find_cards(machine.here()).asked if a.source == "nvidia-smi")
    assert advice in asked.advice


@pytest.mark.parametrize(
    "said",
    [
        "bash: nvidia-smi: Kommando nicht gefunden.",
        "无法与 NVIDIA 驱动程序通信",
        "Le pilote NVIDIA ne répond pas\x1b[31m",
        "\x00\xff\x00",
    ],
)
def test_what_a_tool_says_in_any_language_is_no_card_and_is_passed_on(machine: Machine, said: str) -> None:
    machine.prints("nvidia-smi", said, 1)
    machine.prints("rocm-smi", said, 1)
    machine.prints("xpu-smi", said, 1)
    machine.prints("llama-server", said, 1)
    found = find_cards(machine.here())
    assert found.gpus == ()
    failures = [a.failure for a in found.asked if "exit status 1" in a.failure]
    assert len(failures) == 4
    assert all(f.isprintable() for f in failures)


def test_a_tool_that_hangs_costs_its_time_and_no_more(machine: Machine) -> None:
    machine.program("nvidia-smi", "sleep 30")
    found = find_cards(machine.here(timeout_s=0.2))
    (asked,) = (a for a in found.asked if a.source == "nvidia-smi")
    assert (asked.failure, asked.advice) == (
        "did not answer within 0.2 s",
        "the driver hangs: restart the machine",
    )


def test_a_virtual_gpu_says_so() -> None:
    text = "name, memory.total [MiB], memory.free [MiB], compute_cap\nGRID A100-4C, 4096 MiB, 4096 MiB, 8.0\n"
    (card,) = parse_query(text)
    gpu = gpu_of(card)
    assert gpu is not None
    assert gpu.assumed.startswith("GRID A100-4C: a virtual GPU")
    assert gpu.id is None


def test_a_spark_has_what_the_system_has_left(machine: Machine) -> None:
    """Its driver names no size: the engine takes MemAvailable as free."""
    machine.prints("nvidia-smi", recorded("nvidia-smi-gb10.csv"))
    (gpu,) = find_cards(machine.here()).gpus
    assert (gpu.id, gpu.unified, gpu.total_bytes) == ("gb10", True, 64 * GIB)
    assert gpu.free == 48 * GIB - gpu.overhead_bytes


def test_a_jetson_is_named_by_its_device_tree(machine: Machine) -> None:
    machine.file("proc/device-tree/model", "NVIDIA Jetson AGX Orin Developer Kit\0")
    machine.file("proc/meminfo", f"MemTotal: {int(61.4 * (1 << 20))} kB\nMemAvailable: {40 << 20} kB\n")
    (gpu,) = find_cards(machine.here()).gpus
    assert (gpu.id, gpu.unified) == ("jetson-agx-orin-64gb", True)
    assert gpu.free == 40 * GIB - gpu.overhead_bytes


class Library:
    """NVIDIA's library with two cards: one with a desktop, one that is divided."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.hangs, self.closed = hangs, 0

    def nvmlInit(self) -> None:  # noqa: N802 - the library's names
        if self.hangs:
            import time

            time.sleep(3)

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.closed += 1

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def memory(handle: object) -> Any:
            total = 5 * GIB if str(handle).startswith("slice") else 24564 * MIB
            return SimpleNamespace(total=total, free=total - GIB)

        table: dict[str, Callable[..., Any]] = {
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": lambda i: i,
            "nvmlDeviceGetName": lambda h: (
                b"NVIDIA A100 MIG 1g.5gb" if str(h).startswith("slice") else "NVIDIA GeForce RTX 3090 Ti"
            ),
            "nvmlDeviceGetUUID": lambda h: f"GPU-{h}",
            "nvmlDeviceGetPciInfo": lambda h: SimpleNamespace(busId=f"00000000:0{h + 1}:00.0"),
            "nvmlDeviceGetMemoryInfo": memory,
            "nvmlDeviceGetCudaComputeCapability": lambda h: (8, 6),
            "nvmlDeviceGetDisplayActive": lambda h: 1 - h,
            "nvmlDeviceGetMigMode": lambda h: (h, h),
            "nvmlDeviceGetMaxMigDeviceCount": lambda h: 2,
            "nvmlDeviceGetMigDeviceHandleByIndex": lambda h, i: f"slice{i}" if i else None,
            "nvmlDeviceGetGraphicsRunningProcesses": lambda h: [
                SimpleNamespace(pid=7, usedGpuMemory=600 * MIB),
                SimpleNamespace(pid=8, usedGpuMemory=None),
            ],
            "nvmlSystemGetProcessName": lambda pid: {7: b"/usr/lib/Xorg"}[pid],
        }
        if name not in table:
            raise RuntimeError("Not Supported")
        return table[name]


def test_the_library_is_asked_first(machine: Machine) -> None:
    nvml = Library()
    report = ask_nvml(machine.here(), nvml)
    first, second = report.seen
    assert (first.total_bytes, first.free_bytes, first.compute_capability) == (
        24564 * MIB,
        23540 * MIB,
        "8.6",
    )
    assert (first.bus, first.uuid, first.screen) == ("0000:01:00.0", "GPU-0", True)
    assert first.users == (User("Xorg", 600 * MIB), User("process 8", None))
    assert (second.name, second.total_bytes) == ("NVIDIA GeForce RTX 3090 Ti MIG 1g.5gb", 5 * GIB)
    assert (report.asked.n_cards, nvml.closed) == (2, 1)


def test_a_library_that_hangs_or_fails_is_left(machine: Machine) -> None:
    assert "did not answer" in ask_nvml(machine.here(timeout_s=0.05), Library(hangs=True)).asked.failure
    broken = SimpleNamespace(nvmlInit=lambda: 1 / 0, AmdSmiMemoryType=None)
    assert "division" in ask_nvml(machine.here(), broken).asked.failure
    assert "amdsmi_init" in ask_amdsmi(machine.here(), broken).asked.failure
    empty = SimpleNamespace(nvmlInit=int, nvmlShutdown=int, nvmlDeviceGetCount=int)
    assert ask_nvml(machine.here(), empty).asked.failure == "named no card"


def test_libraries_that_are_installed_are_enough(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """No tool runs where a library answers."""
    monkeypatch.setitem(sys.modules, "pynvml", Library())
    monkeypatch.setitem(sys.modules, "amdsmi", amd_library())
    found = find_cards(machine.here())
    assert [a.source for a in found.asked if a.n_cards] == ["nvidia-ml-py", "amdsmi"]
    assert [g.backend for g in found.gpus] == ["cuda", "cuda", "hip"]


# --- AMD


def test_rocm_smi_is_read() -> None:
    (card,) = parse_rocm_smi(recorded("rocm-smi-low-power.txt") + recorded("rocm-smi-7900xt.json"))
    assert (card.name, card.compute_capability) == ("Radeon RX 7900 XT", "gfx1100")
    assert (card.total_bytes, card.free_bytes) == (21458059264, 21458059264 - 27856896)
    gpu = gpu_of(card)
    assert gpu is not None
    assert (gpu.id, gpu.backend, gpu.overhead_bytes) == ("rx-7900-xt", "hip", 180 * MIB)
    assert gpu.free == 21458059264 - 27856896 - 180 * MIB
    for name in ("rocm-smi-strix-halo.txt", "rocm-smi-no-memory.txt", "rocm-smi-low-power.txt"):
        assert parse_rocm_smi(recorded(name)) == ()


def test_a_card_counts_without_a_proc(tmp_path: Path) -> None:
    machine = Machine(tmp_path, bare=True)
    machine.card("0000:08:00.0", 0x1002, 0x73BF, 0xC0, mem_info_vram_total=17163091968)
    (gpu,) = find_cards(machine.here()).gpus
    assert (gpu.total_bytes, gpu.free_measured) == (17163091968, False)


def test_of_two_pools_that_share_the_system_the_larger_counts() -> None:
    values = {"VRAM Total Memory (B)": str(GIB // 2), "VRAM Total Used Memory (B)": "368111616",
              "GTT Total Memory (B)": str(62 * GIB), "GTT Total Used Memory (B)": str(GIB),
              "Card series": "N/A", "GFX Version": "gfx1151", "PCI Bus": "0000:C5:00.0"}  # fmt: skip
    (card,) = parse_rocm_smi(json.dumps({"card0": values, "system": {}, "card1": {}, "card2": 7}))
    assert (card.total_bytes, card.free_bytes, card.unified) == (62 * GIB, 61 * GIB, True)
    assert (card.name, card.bus) == ("AMD GPU", "0000:c5:00.0")


@pytest.mark.parametrize(
    ("version", "name"),
    [
        (110501, "gfx1151"),
        (90010, "gfx90a"),
        (100300, "gfx1030"),
        (120001, "gfx1201"),
        (0, ""),
        (-1, ""),
        (10**9, ""),
    ],
)
def test_the_kernels_number_of_a_target(version: int, name: str) -> None:
    assert gfx_name(version) == name


def test_the_kernels_topology_says_target_and_place() -> None:
    assert parse_kfd(recorded("kfd-8060s.txt")) == ("0000:00:00.0", "gfx1151")
    assert parse_kfd("location_id 50432\ndomain 0\ngfx_target_version 110501\n") == (
        "0000:c5:00.0",
        "gfx1151",
    )
    assert parse_kfd("cpu_cores_count 32\ngfx_target_version 0\n") is None
    assert parse_kfd("") is None


def test_the_kernel_knows_an_amd_card_without_any_tool(machine: Machine) -> None:
    """Sizes from amdgpu, the name from libdrm's list, the target from KFD, and who holds its memory."""
    machine.card("0000:08:00.0", 0x1002, 0x73BF, 0xC0, mem_info_vram_total=17163091968,
                 mem_info_vram_used=692142080, mem_info_gtt_total=33 * GIB)  # fmt: skip
    machine.file("usr/share/libdrm/amdgpu.ids", recorded("amdgpu.ids"))
    node = "location_id 2048\ngfx_target_version 100300\n"
    machine.file("sys/class/kfd/kfd/topology/nodes/1/properties", node)
    machine.process(11, "Xorg", recorded("fdinfo-amdgpu.txt").replace("2068 KiB", "400 MiB"))
    machine.process(12, "Xorg", recorded("fdinfo-amdgpu.txt"))  # the same client, which counts once
    machine.process(13, "bash", recorded("fdinfo-amdgpu.txt"), "/dev/null")
    machine.file("proc/14/fd/0", "no link: the process ended")
    found = find_cards(machine.here())
    (gpu,), (seen,) = found.gpus, found.seen
    assert (gpu.id, gpu.compute_capability, gpu.backend) == ("rx-6900-xt", "gfx1030", "hip")
    assert (gpu.total_bytes, gpu.free) == (17163091968, 17163091968 - 692142080 - 180 * MIB)
    assert seen.users == (User("Xorg", 400 * MIB),)
    assert "660 MiB are in use now (Xorg 400 MiB)" in gpu.assumed


def test_what_the_kernel_cannot_name_rocm_smi_does(machine: Machine) -> None:
    machine.card(
        "0000:03:00.0", 0x1002, 0x744C, 0xC8, mem_info_vram_total=25753026560, mem_info_vram_used=GIB
    )
    machine.file("usr/share/misc/pci.ids", recorded("pci.ids"))
    values = {
        "VRAM Total Memory (B)": "25753026560",
        "Card Series": "AMD Radeon RX 7900 XTX",
        "PCI Bus": "0000:03:00.0",
    }
    machine.prints("rocm-smi", json.dumps({"card0": values}))
    (gpu,) = find_cards(machine.here()).gpus
    assert (gpu.id, gpu.total_bytes) == ("rx-7900-xtx", 24560 * MIB)
    machine.prints("rocm-smi", "no JSON")
    (gpu,) = find_cards(machine.here()).gpus
    assert (gpu.name, gpu.id) == ("AMD GPU", None)


@pytest.mark.parametrize(
    ("name", "unified"),
    [
        ("AMD Radeon Graphics", True),
        ("AMD Radeon 780M", True),
        ("AMD Radeon 8060S Graphics", True),
        ("AMD Radeon Vega 8 Graphics", True),
        ("AMD Radeon RX 6500 XT", False),
        ("AMD Radeon RX 6800M", False),
        ("AMD Radeon VII", False),
        ("AMD Radeon PRO W7900", False),
    ],
)
def test_without_a_target_the_name_tells_what_is_built_in(machine: Machine, name: str, unified: bool) -> None:
    """Its own memory alone counts then, for the name is no proof; beside another card it is left out."""
    machine.card("0000:0c:00.0", 0x1002, 0x164E, 0xC6, mem_info_vram_total=GIB // 2, mem_info_vram_used=0,
                 mem_info_gtt_total=31 * GIB)  # fmt: skip
    machine.file("sys/bus/pci/devices/0000:0c:00.0/product_name", name)
    (seen,) = find_cards(machine.here()).seen
    assert (seen.unified, seen.total_bytes) == (unified, GIB // 2)
    machine.prints("nvidia-smi", recorded("nvidia-smi-5080-busy.csv"))
    assert len(find_cards(machine.here()).gpus) == (1 if unified else 2)


def test_a_kernel_without_amdgpu_is_told(machine: Machine) -> None:
    machine.card("0000:03:00.0", 0x1002, 0x744C, 0xC8)
    asked = {a.source: a for a in find_cards(machine.here()).asked}
    assert "modprobe amdgpu" in asked["amdgpu (/sys)"].advice
    assert asked["PCI 0000:03:00.0"].failure == "a card of AMD (0x744c, driver none) that no source knows"


def amd_library() -> Any:
    sizes = {"total": {"V": 24 * GIB, "G": GIB}, "usage": {"V": 2 * GIB, "G": 0}}
    asic = {"market_name": "AMD Radeon RX 7900 XTX", "target_graphics_version": "gfx1100"}
    return SimpleNamespace(
        AmdSmiMemoryType=SimpleNamespace(VRAM="V", GTT="G"),
        amdsmi_init=int,
        amdsmi_shut_down=int,
        amdsmi_get_processor_handles=lambda: [1],
        amdsmi_get_gpu_asic_info=lambda h: asic,
        amdsmi_get_gpu_memory_total=lambda h, kind: sizes["total"][kind],
        amdsmi_get_gpu_memory_usage=lambda h, kind: sizes["usage"][kind],
        amdsmi_get_gpu_device_bdf=lambda h: 1 / 0,
    )


def test_amds_library_is_read(machine: Machine) -> None:
    (card,) = ask_amdsmi(machine.here(), amd_library()).seen
    assert (card.total_bytes, card.free_bytes, card.bus) == (24 * GIB, 22 * GIB, "")
    assert (card.name, card.compute_capability) == ("AMD Radeon RX 7900 XTX", "gfx1100")


# --- Intel


def test_xpu_smi_is_read(machine: Machine) -> None:
    (card,) = parse_xpu_smi(recorded("xpu-smi-b60.json")).values()
    assert (card.total_bytes, card.free_bytes) == (25669140480, 25447600128)
    listed = {"device_list": [{"device_id": 0, "device_name": "Intel(R) Arc(TM) B580 Graphics"}]}
    alone = {
        **listed["device_list"][0],
        "memory_physical_size_byte": "12809404416",
        "memory_free_size_byte": "12000000000",
    }
    machine.file("all", json.dumps(listed))
    machine.file("one", json.dumps(alone))
    machine.program("xpu-smi", f'test "$2" = -d && cat {machine.root}/one || cat {machine.root}/all')
    (gpu,) = find_cards(machine.here()).gpus
    assert (gpu.id, gpu.backend, gpu.total_bytes) == ("arc-b580", "vulkan", 12809404416)
    assert gpu.free == 12000000000 - gpu.overhead_bytes


def test_the_kernel_knows_the_size_of_an_intel_card(machine: Machine) -> None:
    """xe tells it by tile; nobody tells what is free, so a plan assumes it and says so."""
    machine.card("0000:03:00.0", 0x8086, 0xE20B)
    machine.file("sys/bus/pci/devices/0000:03:00.0/tile0/physical_vram_size_bytes", str(12 * GIB))
    machine.file("usr/share/hwdata/pci.ids", recorded("pci.ids"))
    machine.process(5, "kwin", recorded("fdinfo-xe.txt"))
    found = find_cards(machine.here())
    (gpu,) = found.gpus
    assert (gpu.id, gpu.total_bytes, gpu.free_measured) == ("arc-b580", 12 * GIB, False)
    assert found.seen[0].users == (User("kwin", 23992 * KIB),)


def test_an_integrated_gpu_of_no_known_size_is_said_and_not_planned_for(machine: Machine) -> None:
    machine.card("0000:00:02.0", 0x8086, 0x46A6)
    found = find_cards(machine.here())
    assert found.gpus == ()
    assert found.notes == (
        "Intel Graphics [0x46a6]: no source says how much memory it has; to plan for it give that, as in --gpus 16GiB",
    )


def test_what_programs_hold_is_read_from_their_files() -> None:
    assert parse_fdinfo(recorded("fdinfo-amdgpu.txt")) == ("0000:08:00.0", "217", 2068 * KIB)
    assert parse_fdinfo(recorded("fdinfo-xe.txt")) == ("0000:03:00.0", "3", 23992 * KIB)
    assert parse_fdinfo("pos: 0\nflags: 02\n") is None


def test_names_come_from_the_lists_of_the_drivers() -> None:
    assert parse_amdgpu_ids(recorded("amdgpu.ids"), 0x73BF, 0xC1) == "AMD Radeon RX 6800 XT"
    assert parse_amdgpu_ids(recorded("amdgpu.ids"), 0x73BF, 0xFF) == ""
    assert parse_pci_ids(recorded("pci.ids"), 0x8086, 0x56A0) == "Arc A770"
    assert parse_pci_ids(recorded("pci.ids"), 0x1002, 0x744C) == ""  # five cards of one number
    assert parse_pci_ids(recorded("pci.ids"), 0x8086, 0x1226) == ""
    assert parse_pci_ids("", 0x8086, 0x56A0) == ""


# --- Apple


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        (recorded("sysctl-m2-pro.txt"), 21845),
        (recorded("sysctl-m2-pro.txt") + "kern.osproductversion: 26.5.1\n", 25558),
        (
            recorded("sysctl-m2-pro.txt") + "kern.osproductversion: 27.0\n",
            21845,
        ),  # nobody saw what that lends
        (recorded("sysctl-m2-pro.txt").replace("mb: 0", "mb: 26000"), 26000),
        (
            recorded("sysctl-m2-pro.txt").replace(
                "iogpu.wired_limit_mb: 0", "debug.iogpu.wired_limit: 26000"
            ),
            26000,
        ),
        (recorded("sysctl-m2-pro.txt").replace("mb: 0", "mb: 99999"), 21845),
        (recorded("sysctl-m3-ultra.txt"), 384 * 1024),
        (recorded("sysctl-m3-ultra.txt").replace("27.0", "26.1"), 384 * 1024),  # that figure is not sure
    ],
)
def test_a_mac_lends_what_its_system_and_its_owner_say(text: str, mib: int) -> None:
    card = parse_sysctl(text)
    assert card is not None
    assert (card.total_bytes, card.unified, card.backend) == (mib * MIB, True, "metal")


def test_a_mac_is_asked_by_sysctl(machine: Machine) -> None:
    machine.prints(
        "sysctl", recorded("sysctl-m3-ultra.txt"), 1
    )  # it complains of what its version does not know
    machine.prints("llama-server", recorded("list-devices-none-2025.txt"))
    found = find_cards(machine.here("darwin"))
    assert (found.gpus[0].id, found.gpus[0].name) == ("m3-ultra-512gb", "Apple M3 Ultra 512GB")
    assert "without Metal" in found.lacking[0]
    machine.prints("sysctl", "machdep.cpu.brand_string: Intel(R) Core(TM) i7\nhw.memsize: 17179869184\n")
    assert "no chip of Apple's" in find_cards(machine.here("darwin")).asked[0].failure
    assert parse_sysctl("hw.memsize: x") is None


# --- the engine


@pytest.mark.parametrize(
    ("name", "backend", "total", "free"),
    [
        ("list-devices-m4-max.txt", "metal", 98304, 98303),
        ("list-devices-m1-max.txt", "metal", 26000, 25999),
        ("list-devices-rocm-windows.txt", "hip", 110511, 110357),
        ("list-devices-vulkan-b70.txt", "vulkan", 32656, 29368),
        ("list-devices-sycl-b70.txt", "sycl", 32656, 32601),
        ("list-devices-cuda-5090.txt", "cuda", 32149, 31610),
        ("list-devices-strix-vulkan.txt", "vulkan", 114166, 113602),
        ("list-devices-llvmpipe.txt", "vulkan", 12288, 11000),
    ],
)
def test_the_engines_devices_of_several_eras(name: str, backend: str, total: int, free: int) -> None:
    (device,) = parse_devices(recorded(name)) or ()
    assert (device.backend, device.total_bytes, device.free_bytes) == (backend, total * MIB, free * MIB)


def test_a_device_without_figures_a_list_of_none_and_no_list() -> None:
    (device,) = parse_devices(recorded("list-devices-broken-rocm.txt")) or ()
    assert (device.total_bytes, device.free_bytes) == (None, None)
    (bare,) = parse_devices("Available devices:\n  Metal: Apple M3 Pro\n") or ()
    assert (bare.name, bare.total_bytes) == ("Apple M3 Pro", None)
    for name in ("list-devices-none.txt", "list-devices-none-2025.txt", "list-devices-openvino.txt"):
        assert parse_devices(recorded(name)) == ()
    assert parse_devices("error: invalid argument: --list-devices") is None


def test_the_log_tells_the_capability() -> None:
    (device,) = parse_devices(recorded("list-devices-rocm-windows.txt")) or ()
    assert device.compute_capability == "gfx1151"
    log = (
        "  Device 1: NVIDIA GeForce RTX 5060 Laptop GPU, compute capability 12.0, VMM: yes, VRAM: 8150 MiB\n"
    )
    text = (
        "Available devices:\n  CUDA0: NVIDIA A (10 MiB, 9 MiB free)\n  CUDA1: NVIDIA B (10 MiB, 9 MiB free)\n"
    )
    assert [d.compute_capability for d in parse_devices(text, log) or ()] == [None, "12.0"]


def test_vulkans_log_tells_driver_memory_and_floats() -> None:
    """The driver's limits are facts of the catalogue; an integrated device is one by the driver's own word."""
    sizes = "Available devices:\n  Vulkan0: {} (16304 MiB, 15000 MiB free)\n  Vulkan1: {} (32000 MiB, 30000 MiB free)\n"
    log = recorded("list-devices-vulkan-two.txt")
    card, inner = parse_devices(sizes.format("AMD Radeon RX 9070 XT", "AMD Radeon(TM) Graphics"), log) or ()
    assert (card.driver, card.unified, card.fp16) == ("amd-windows", False, True)
    assert inner.unified
    assert used([card, inner])[0] == (card,)
    gpu = gpu_of(card)
    assert gpu is not None
    assert (gpu.id, gpu.backend, gpu.alignment, gpu.max_tensor_bytes, gpu.fp16) == (
        "rx-9070-xt",
        "vulkan",
        4,
        1 << 31,
        True,
    )
    log = recorded("list-devices-vulkan-arl.txt")
    names = ("Intel(R) Graphics (ARL)", "Intel(R) Arc(tm) B580 Graphics (BMG G21)")
    assert [(d.driver, d.unified) for d in parse_devices(sizes.format(*names), log) or ()] == [
        ("anv", True),
        ("anv", False),
    ]


def test_without_a_log_the_name_or_the_vendor_tells_the_driver() -> None:
    (device,) = parse_devices(recorded("list-devices-strix-vulkan.txt")) or ()
    assert (device.driver, device.fp16) == ("radv", None)
    old = Seen("NVIDIA GeForce GTX 1060 6GB", "nvidia", 6 * GIB, GIB, "vulkan", by_engine=True)
    gpu = gpu_of(old)
    assert gpu is not None
    assert (gpu.host_alignment, gpu.fp16, gpu.compute_capability) == (64, False, None)
    amd = gpu_of(Seen("AMD Radeon RX 7900 XTX", "amd", 24 * GIB, GIB, "vulkan", by_engine=True))
    assert amd is not None
    assert (amd.backend, amd.alignment) == ("vulkan", None)  # three drivers, and nobody says which


def test_a_card_under_sycl_has_its_family() -> None:
    (device,) = parse_devices(recorded("list-devices-sycl-b70.txt")) or ()
    gpu = gpu_of(device)
    assert gpu is not None
    assert (gpu.id, gpu.backend, gpu.free_measured) == ("arc-pro-b70", "sycl", True)
    assert gpu.compute_capability


def test_backends_that_cannot_ask_say_all_is_free() -> None:
    """Vulkan and SYCL without their extensions report the whole size as free: that is no measure."""
    text = "Available devices:\n  SYCL0: Intel(R) Graphics (25538 MiB, 25538 MiB free)\n"
    (device,) = parse_devices(text) or ()
    assert (device.total_bytes, device.free_bytes) == (25538 * MIB, None)


def test_the_engines_order_and_figures_count(machine: Machine) -> None:
    """CUDA puts the fastest first, nvidia-smi the first on the bus; what the engine finds free has its context out."""
    head = "name, uuid, pci.bus_id, memory.total [MiB], memory.free [MiB], compute_cap\n"
    machine.prints("nvidia-smi", head
                   + "NVIDIA GeForce RTX 3060, GPU-a, 00000000:01:00.0, 12288 MiB, 12000 MiB, 8.6\n"
                   + "NVIDIA GeForce RTX 3090 Ti, GPU-b, 00000000:02:00.0, 24564 MiB, 24000 MiB, 8.6\n")  # fmt: skip
    without = find_cards(machine.here())
    assert [g.id for g in without.gpus] == ["rtx-3060", "rtx-3090-ti"]
    assert "CUDA_DEVICE_ORDER" in without.gpus[0].assumed
    assert not find_cards(machine.here(CUDA_DEVICE_ORDER="PCI_BUS_ID")).notes
    devices = ("Available devices:\n  CUDA0: NVIDIA GeForce RTX 3090 Ti (24122 MiB, 23700 MiB free)\n"
               "  CUDA1: NVIDIA GeForce RTX 3060 (11906 MiB, 11700 MiB free)\n")  # fmt: skip
    machine.prints("llama-server", devices)
    found = find_cards(machine.here())
    assert [(g.id, g.total_bytes // MIB, g.free // MIB) for g in found.gpus] == [
        ("rtx-3090-ti", 24122, 23700),
        ("rtx-3060", 11906, 11700),
    ]
    assert [s.uuid for s in found.seen] == ["GPU-b", "GPU-a"]
    assert (found.notes, found.lacking, found.gpus[0].overhead_bytes) == ((), (), 0)


def test_the_backend_is_the_one_that_the_engine_has(machine: Machine) -> None:
    """A build with Vulkan alone runs an NVIDIA card by Vulkan, and drivers' generic names become the card's."""
    machine.prints("nvidia-smi", recorded("nvidia-smi-5080-busy.csv"))
    machine.prints(
        "llama-server", "Available devices:\n  Vulkan0: NVIDIA GeForce RTX 5080 (16303 MiB, 10000 MiB free)\n"
    )
    (gpu,) = find_cards(machine.here()).gpus
    assert (gpu.backend, gpu.id, gpu.compute_capability) == ("vulkan", "rtx-5080", None)
    assert gpu.free == 10000 * MIB - gpu.overhead_bytes
    assert gpu.overhead_bytes > 0
    card = Seen("Arc Pro B70", "intel", 32656 * MIB, bus="0000:03:00.0")
    devices = parse_devices(recorded("list-devices-vulkan-b70.txt")) or ()
    ((device,), left) = merged(devices, [card])
    assert (device.name, device.bus, left) == ("Arc Pro B70", "0000:03:00.0", ())


def test_a_card_that_the_engine_lacks_is_an_error_that_says_what_to_do(machine: Machine) -> None:
    machine.prints("nvidia-smi", recorded("nvidia-smi-5080-busy.csv"))
    machine.prints("llama-server", recorded("list-devices-none.txt"))
    with pytest.raises(
        GpuError, match=r"lists no device for NVIDIA GeForce RTX 5080.*CUDA or Vulkan.*--gpus rtx-5080"
    ):
        own_cards(None, machine.here())
    assert [g.id for g in own_cards("ollama@0.24", machine.here())] == ["rtx-5080"]
    assert [g.id for g in find_cards(machine.here()).gpus] == ["rtx-5080"]


def test_a_card_that_the_engine_leaves_beside_others_is_said(machine: Machine) -> None:
    head = "name, memory.total [MiB], memory.free [MiB]\n"
    machine.prints("nvidia-smi", f"{head}NVIDIA GeForce RTX 3090, 24576 MiB, 24000 MiB\n")
    machine.card("0000:08:00.0", 0x1002, 0x73BF, 0xC0, mem_info_vram_total=17163091968, mem_info_vram_used=0)
    machine.file("usr/share/libdrm/amdgpu.ids", recorded("amdgpu.ids"))
    machine.prints(
        "llama-server", "Available devices:\n  CUDA0: NVIDIA GeForce RTX 3090 (24125 MiB, 23404 MiB free)\n"
    )
    (gpu,) = own_cards(None, machine.here())
    assert "no device for AMD Radeon RX 6900 XT: it was built without ROCm (HIP) or Vulkan" in gpu.assumed


def test_an_engine_that_fails_is_not_believed(machine: Machine) -> None:
    machine.prints("nvidia-smi", recorded("nvidia-smi-5080-busy.csv"))
    machine.program("llama-server", "echo 'error while loading shared libraries: libcuda.so.1' >&2; exit 127")
    found = find_cards(machine.here())
    assert ([g.id for g in found.gpus], found.lacking) == (["rtx-5080"], ())
    asked = found.asked[-1]
    assert "libcuda.so.1" in asked.failure
    assert "by hand" in asked.advice


def test_one_card_of_two_backends_counts_once() -> None:
    """Two cards of one model stay two; what Vulkan lists behind CUDA is the same two."""

    def device(name: str, backend: str) -> Seen:
        return Seen(name, "", GIB, GIB, backend, by_engine=True)

    own = [device("NVIDIA GeForce RTX 3090", "cuda"), device("NVIDIA GeForce RTX 3090", "cuda")]
    theirs = [device("NVIDIA GeForce RTX 3090", "vulkan"), device("NVIDIA GeForce RTX 3090", "vulkan")]
    amd = device("AMD Radeon RX 7900 XTX (RADV NAVI31)", "vulkan")
    assert once_each([*own, *theirs, amd]) == (*own, amd)
    assert once_each(theirs) == tuple(theirs)


def test_integrated_gpus_count_where_there_is_no_other() -> None:
    small = Seen("AMD Radeon 780M Graphics", "amd", 16 * GIB)
    card = Seen("NVIDIA GeForce RTX 3090", "nvidia", 24 * GIB)
    assert used([small]) == ((small,), ())
    assert used([small, card])[0] == (card,)
    assert "780M" in used([small, card])[1][0]


def test_where_rocm_overlooks_other_programs_the_kernel_counts() -> None:
    """hipMemGetInfo leaves out what a desktop holds of a card; the driver does not."""
    device = Seen("AMD Radeon RX 7900 XTX", "amd", 24 * GIB, 24 * GIB - MIB, "hip", by_engine=True)
    card = Seen("AMD Radeon RX 7900 XTX", "amd", 24 * GIB, 20 * GIB)
    assert merged([device], [card])[0][0].free_bytes == 20 * GIB
    unknown = replace(device, total_bytes=None, free_bytes=None)
    (found,), _ = merged([unknown], [card])
    assert (found.total_bytes, found.free_bytes, found.by_engine, found.backend) == (
        24 * GIB,
        20 * GIB,
        False,
        "hip",
    )


# --- the environment


CARDS = tuple(Seen(f"NVIDIA {i}", "nvidia", GIB, uuid=f"GPU-{i}{i}") for i in range(3))


@pytest.mark.parametrize(
    ("value", "left"),
    [
        ("0,2", [0, 2]),
        ("2,0", [2, 0]),
        ("", []),
        ("-1", []),
        ("1,-1,0", [1]),
        ("0,7,1", [0]),
        ("GPU-1", [1]),
        ("gpu-22, 0", [2, 0]),
        ("GPU-", []),
        ("GPU-9,0", []),
        ("0,0", []),
        ("NoDevFiles", []),
    ],
)
def test_cuda_leaves_what_its_variable_names(value: str, left: list[int]) -> None:
    assert chosen(CARDS, value) == [CARDS[i] for i in left]


def test_each_vendor_has_variables_of_its_own() -> None:
    amd = tuple(Seen(f"AMD {i}", "amd", GIB) for i in range(3))
    cards = (*CARDS, *amd)
    kept, notes = visible(cards, {"ROCR_VISIBLE_DEVICES": "1,2", "HIP_VISIBLE_DEVICES": "1"})
    assert kept == (*CARDS, amd[2])
    assert notes[1] == "HIP_VISIBLE_DEVICES='1' leaves 1 of 2 cards"
    assert visible(cards, {"CUDA_VISIBLE_DEVICES": "0"})[0] == (CARDS[0], amd[0])
    assert visible(cards, {}) == (cards, ())


def test_a_hidden_card_is_not_missed(machine: Machine) -> None:
    machine.prints("nvidia-smi", recorded("nvidia-smi-5080-busy.csv"))
    machine.prints("llama-server", recorded("list-devices-none.txt"))
    found = find_cards(machine.here(CUDA_VISIBLE_DEVICES=""))
    assert (found.gpus, found.lacking) == ((), ())
    assert found.notes == ("CUDA_VISIBLE_DEVICES='' leaves 0 of 1 cards",)


def test_windows_and_its_linux_are_said(machine: Machine) -> None:
    machine.prints("nvidia-smi", recorded("nvidia-smi-5080-busy.csv"))
    assert "spills" in find_cards(machine.here("win32")).notes[0]
    machine.file("proc/sys/kernel/osrelease", "5.15.167.4-microsoft-standard-WSL2\n")
    found = find_cards(machine.here())
    assert found.notes[0].startswith("WSL:")
    assert found.notes[0] in found.gpus[0].assumed


# --- what is made of it


def test_what_others_hold_is_said_with_who() -> None:
    card = Seen("NVIDIA A", "nvidia", 24 * GIB, 20 * GIB, users=(User("a", None), User("b", 3 * GIB)))
    assert taken_sentence(card).startswith("NVIDIA A: 4 GiB are in use now (b 3 GiB, a);")
    crowd = replace(card, users=tuple(User(str(i), GIB) for i in range(6)))
    assert "and 2 more" in taken_sentence(crowd)
    assert "its screen" in taken_sentence(replace(card, users=(), screen=True))
    assert taken_sentence(replace(card, users=())).startswith("NVIDIA A: 4 GiB are in use now;")
    assert taken_sentence(replace(card, free_bytes=24 * GIB - MIB)) == ""
    assert taken_sentence(replace(card, unified=True)) == ""
    assert "3 GiB are in use now" in taken_sentence(
        replace(card, by_engine=True)
    )  # its context is nobody else's
    assert taken_sentence(replace(card, by_engine=True, users=())) == ""


def test_the_engines_total_is_less_than_the_tools() -> None:
    """As the catalogue saw it, else by its rule; a context is set aside."""
    smi = Seen("NVIDIA GeForce RTX 3090 Ti", "nvidia", 24564 * MIB, 24100 * MIB, compute_capability="8.6")
    gpu = gpu_of(smi)
    assert gpu is not None
    assert (gpu.id, gpu.total_bytes, gpu.free) == ("rtx-3090-ti", 24052 * MIB, (24052 - 416) * MIB)
    other = gpu_of(Seen("NVIDIA Graphics Device", "nvidia", 40000 * MIB, 300 * MIB))
    assert other is not None
    assert (other.id, other.total_bytes, other.free) == (None, 39200 * MIB, 0)
    assert gpu_of(Seen("NVIDIA Thing", "nvidia")) is None


def test_the_memory_tells_versions_of_a_card_apart() -> None:
    sizes = {8151: "rtx-5060-ti-8gb", 16311: "rtx-5060-ti-16gb"}
    for mib, card in sizes.items():
        gpu = gpu_of(Seen("NVIDIA GeForce RTX 5060 Ti", "nvidia", mib * MIB, GIB))
        assert gpu is not None
        assert gpu.id == card


def test_a_size_that_no_card_has_is_not_known(machine: Machine) -> None:
    card = {"device_id": 0, "device_name": "Intel X", "memory_physical_size_byte": "9" * 18}
    (seen,) = parse_xpu_smi(json.dumps(card)).values()
    assert seen.total_bytes is None
    machine.prints("xpu-smi", json.dumps(card))
    assert "no source says how much memory" in find_cards(machine.here()).notes[0]


def test_a_name_is_a_drivers() -> None:
    assert Seen("a\x1b[31m\nb" + "x" * 500, "nvidia").name.isprintable()
    assert len(Seen("x" * 500, "").name) < 100
    assert Seen("", "").name == "GPU"
    assert [number(t) for t in ("12\n", "x", "", "٣", "9" * 20)] == [12, None, None, None, None]


@given(st.text() | st.text(alphabet="a,0129:[]{}|MiB\n\"' "))
def test_any_output_is_survived(text: str) -> None:
    """A tool may print anything: nothing is raised, and what is made of it is a card that can be."""
    head = "name, memory.total [MiB], memory.free [MiB], uuid\n"
    seen = [
        *parse_query(text),
        *parse_query(head + text),
        *parse_rocm_smi(text),
        *parse_xpu_smi(text).values(),
    ]
    seen += parse_devices(f"Available devices:\n{text}", text) or ()
    (
        parse_table(text),
        parse_list(text),
        parse_kfd(text),
        parse_sysctl(text),
        parse_fdinfo(text),
        chosen(CARDS, text),
    )
    parse_amdgpu_ids(text, 1, 1), parse_pci_ids(text, 1, 1)
    for card in seen:
        gpu = gpu_of(card, HostMemory(GIB, GIB))
        assert gpu is None or 0 <= gpu.free <= gpu.total_bytes


def test_a_plan_is_for_this_machine_unless_cards_are_named(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From Python without cards, on the command line without --gpus or with auto."""
    machine.prints("nvidia-smi", recorded("nvidia-smi-5080-busy.csv"))
    monkeypatch.setenv("PATH", machine.here().environ["PATH"])
    settings = {"n_ctx": 512}
    card = "NVIDIA GeForce RTX 5080"
    for plan in (vramfit.plan(dense(), settings=settings), vramfit.plan(dense(), " AUTO ", settings)):
        assert card in [g.name for g in plan.gpus]
        assert any("are in use now" in warning for warning in plan.warnings)
    for words in ((), ("--gpus", "auto")):
        result = CliRunner().invoke(main, ["plan", EXAMPLE, "--ctx", "512", "--json", *words])
        assert card in [g["name"] for g in json.loads(result.output)["gpus"]]


def test_this_machine_is_asked_without_an_error() -> None:
    assert isinstance(detect_gpus(), tuple)
