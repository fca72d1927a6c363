"""Ask NVIDIA's driver: its library (`nvidia-ml-py`, an extra), else `nvidia-smi`."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from ..._base.foreign import printable
from ..ask import called, imported
from ..catalogue import MIB
from ..noun import CUDA_CAPABILITY
from .nouns import Asked, Here, Report, Seen, User, number

__all__ = ["ask_nvidia", "ask_nvml", "ask_smi", "parse_list", "parse_query", "parse_table"]

FIELDS: Final = ("name", "uuid", "pci.bus_id", "memory.total", "memory.free", "compute_cap", "display_active", "mig.mode.current")  # fmt: skip
OLD_FIELDS: Final = FIELDS[:5]  # what drivers before 2021 know; they refuse a query with any other
SMI: Final = ("nvidia-smi", "/usr/lib/wsl/lib/nvidia-smi")  # WSL's is on no path
_VIRTUAL: Final = re.compile(r".*-\d{1,3}[QCABV]")  # a virtual GPU is named for its profile: "GRID A100-10C"
_GPU: Final = re.compile(r"GPU (\d{1,3}): .*\(UUID: GPU-[\w-]+\)")
_MIG: Final = re.compile(r"\s+MIG (\S+)\s+Device\s+(\d{1,2}): \(UUID: (MIG-[\w/-]+)\)")
_SLICE: Final = re.compile(
    r"\|\s+(\d{1,3})\s+\d+\s+\d+\s+(\d{1,2})\s+\|\s+(\d{1,7})MiB / (\d{1,7})MiB\s+\|.*"
)
_PROCESS: Final = re.compile(
    r"\|\s+(\d{1,3})\s+(?:\S+\s+\S+\s+)?\d+\s+(?:M\+)?(?:C\+G|C|G)\s+(\S.*?)\s+(?:(\d{1,7})MiB|N/A)\s*\|"
)
_NO_DRIVER: Final = "Shared Library Not Found"  # of NVIDIA's, on a machine without its card
_BROKEN: Final = (
    ("version mismatch", "the driver was updated under the running system: restart the machine"),
    ("couldn't communicate", "the driver is not loaded: `sudo modprobe nvidia`, or install it again"),
    ("couldn't find libnvidia-ml", "the driver's libraries are missing: install the driver again"),
    ("Driver Not Loaded", "the driver is not loaded: `sudo modprobe nvidia`, or install it again"),
    ("Insufficient Permissions", "this user may not ask the driver: run it as one who may use /dev/nvidia*"),
    ("GPU is lost", "a card fell off the bus: restart the machine"),
    ("did not answer", "the driver hangs: restart the machine"),
)


def ask_nvidia(here: Here) -> tuple[Report, ...]:
    """Ask the library, and the tool where the library is missing or fails."""
    first = ask_nvml(here)
    return (first,) if first.seen else (first, ask_smi(here))


def ask_smi(here: Here) -> Report:
    """Ask `nvidia-smi`: cards and their memory, who holds it, and slices of MIG."""
    for program in SMI:
        answer = here.ask(program, f"--query-gpu={','.join(FIELDS)}", "--format=csv")
        if "not a valid field" in answer.text + answer.errors:
            answer = here.ask(program, f"--query-gpu={','.join(OLD_FIELDS)}", "--format=csv")
        if not answer.missing:
            break
    seen = parse_query(answer.text)
    if answer.missing or not seen:
        said = answer.failure or _first(answer.text) or "named no card"
        return Report(Asked("nvidia-smi", missing=answer.missing, failure=said, advice=_advice(said)))
    users, slices = parse_table(here.ask(program).text)
    names = parse_list(here.ask(program, "-L").text) if slices else {}
    cards = [
        _sliced(replace(card, users=users.get(i, ())), slices.get(i, ()), names.get(i, ()))
        for i, card in enumerate(seen)
    ]
    return Report(Asked("nvidia-smi", len(cards)), tuple(cards))


def parse_query(text: str) -> tuple[Seen, ...]:
    """Read the CSV of `nvidia-smi --query-gpu=… --format=csv`, whatever its columns, with or without units.

    A value that is no number ("[N/A]", "[Unknown Error]") is not known. Anything but such a table is no card.
    """
    try:
        rows = list(csv.reader(text.splitlines(), skipinitialspace=True))
    except csv.Error:
        return ()
    head = [cell.partition(" [")[0].strip() for cell in rows[0]] if rows else []
    if "name" not in head:
        return ()
    return tuple(
        _card(dict(zip(head, row, strict=True))) for row in rows[1:] if len(row) == len(head) and any(row)
    )


def _card(cells: dict[str, str]) -> Seen:
    name, capability = cells["name"].strip(), cells.get("compute_cap", "").strip()
    notes = ["a virtual GPU: what it has is what its host lends it"] if _VIRTUAL.fullmatch(name) else []
    mig = cells.get("mig.mode.current", "").strip() == "Enabled"
    return Seen(
        name=name,
        vendor="nvidia",
        total_bytes=_mib(cells.get("memory.total", "")) or None,
        free_bytes=_mib(cells.get("memory.free", "")),
        compute_capability=capability if CUDA_CAPABILITY.fullmatch(capability) else None,
        bus=_bus(cells.get("pci.bus_id", "")),
        uuid=cells.get("uuid", "").strip(),
        screen=cells.get("display_active", "").strip() == "Enabled",
        notes=(*notes, *([NO_SLICE] if mig else [])),
    )


NO_SLICE: Final = (
    "divided by MIG, and no instance was found: create one (`nvidia-smi mig -cgi`) or turn MIG off"
)


def parse_table(text: str) -> tuple[dict[int, tuple[User, ...]], dict[int, tuple[tuple[int, int], ...]]]:
    """Read the tables that `nvidia-smi` alone prints: who holds memory, and MIG's instances (total, free), by card."""
    users: dict[int, tuple[User, ...]] = {}
    slices: dict[int, tuple[tuple[int, int], ...]] = {}
    for line in text.splitlines():
        if match := _PROCESS.fullmatch(line.strip()):
            i, size = int(match[1]), match[3]
            users[i] = (*users.get(i, ()), User(_program(match[2]), int(size) * MIB if size else None))
        elif match := _SLICE.fullmatch(line.strip()):
            i, used, total = int(match[1]), int(match[3]) * MIB, int(match[4]) * MIB
            slices[i] = (*slices.get(i, ()), (total, max(0, total - used)))
    return users, slices


def parse_list(text: str) -> dict[int, tuple[tuple[str, str], ...]]:
    """Read `nvidia-smi -L`: for each card the MIG instances, a profile such as "3g.20gb" and an identity."""
    found: dict[int, tuple[tuple[str, str], ...]] = {}
    card = -1
    for line in text.splitlines():
        if match := _GPU.fullmatch(line.strip()):
            card = int(match[1])
        elif card >= 0 and (match := _MIG.fullmatch(line)):
            found[card] = (*found.get(card, ()), (match[1], match[3]))
    return found


def _sliced(card: Seen, slices: Sequence[tuple[int, int]], names: Sequence[tuple[str, str]]) -> Seen:
    """The MIG instance that a process gets: CUDA gives it one, the first unless CUDA_VISIBLE_DEVICES names another."""
    if NO_SLICE not in card.notes and not slices:
        return card
    if not slices:
        return replace(card, total_bytes=None, free_bytes=None)
    note = f"one of {len(slices)} MIG instances: a process of CUDA sees one, the first unless CUDA_VISIBLE_DEVICES names another"
    named = [*names, *[("", card.uuid)] * len(slices)]
    first, *others = [
        replace(
            card,
            name=f"{card.name} MIG {profile}".strip(),
            total_bytes=total,
            free_bytes=free,
            uuid=uuid,
            notes=(note,),
        )
        for (total, free), (profile, uuid) in zip(slices, named, strict=False)
    ]
    return replace(first, others=tuple(others))


def ask_nvml(here: Here, nvml: Any = None) -> Report:
    """Ask the driver's library by way of `nvidia-ml-py`, if it is installed. `nvml` stands for the module in tests."""
    if nvml is None:
        nvml, answer = imported("pynvml")
        if nvml is None:
            return Report(Asked("nvidia-ml-py", missing=answer.missing, failure=answer.failure))
    seen, failure = called(lambda: _library(nvml), timeout_s=here.timeout_s)
    if failure or not seen:
        said = failure or "named no card"
        return Report(Asked("nvidia-ml-py", missing=_NO_DRIVER in said, failure=said, advice=_advice(said)))
    return Report(Asked("nvidia-ml-py", len(seen)), tuple(seen))


def _library(nvml: Any) -> list[Seen]:
    nvml.nvmlInit()
    try:
        return [
            _from_library(nvml, nvml.nvmlDeviceGetHandleByIndex(i)) for i in range(nvml.nvmlDeviceGetCount())
        ]
    finally:
        nvml.nvmlShutdown()


def _from_library(nvml: Any, handle: Any) -> Seen:
    def get(name: str, *more: Any) -> Any:
        """Call a function of the library; None for what this card or driver does not support."""
        try:
            return getattr(nvml, name)(handle, *more)
        except Exception:
            return None

    memory, capability = get("nvmlDeviceGetMemoryInfo"), get("nvmlDeviceGetCudaComputeCapability")
    mig = get("nvmlDeviceGetMigMode")
    pci = get("nvmlDeviceGetPciInfo")
    name = _text(get("nvmlDeviceGetName")) or "NVIDIA GPU"
    card = Seen(
        name=name,
        vendor="nvidia",
        total_bytes=memory.total or None if memory else None,
        free_bytes=memory.free if memory and memory.total else None,
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else None,
        bus=_bus(_text(pci.busId)) if pci else "",
        uuid=_text(get("nvmlDeviceGetUUID")),
        screen=bool(get("nvmlDeviceGetDisplayActive")),
        users=_users(nvml, get),
        notes=(NO_SLICE,) if mig and mig[0] else (),
    )
    return _sliced(card, *_instances(nvml, get)) if mig and mig[0] else card


def _instances(nvml: Any, get: Any) -> tuple[list[tuple[int, int]], list[tuple[str, str]]]:
    slices, names = [], []
    for i in range(get("nvmlDeviceGetMaxMigDeviceCount") or 0):
        handle = get("nvmlDeviceGetMigDeviceHandleByIndex", i)
        if handle is not None:
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            slices.append((memory.total, memory.free))
            profile = _text(nvml.nvmlDeviceGetName(handle)).rpartition("MIG ")[2]
            names.append((profile, _text(nvml.nvmlDeviceGetUUID(handle))))
    return slices, names


def _users(nvml: Any, get: Any) -> tuple[User, ...]:
    held: dict[int, int | None] = {}
    for kind in ("Compute", "Graphics"):  # a program that does both is in both lists
        for process in get(f"nvmlDeviceGet{kind}RunningProcesses") or ():
            held[process.pid] = process.usedGpuMemory
    found = []
    for pid, size in held.items():
        try:
            name = _text(nvml.nvmlSystemGetProcessName(pid))
        except Exception:  # it ended, or is another user's
            name = ""
        found.append(User(_program(name or f"process {pid}"), size))
    return tuple(found)


def _program(path: str) -> str:
    """The name of a program by its path, which the table cuts at its start."""
    bare = path.split(" --")[0].strip()
    return printable(re.split(r"[/\\]", bare)[-1] or bare, 40)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")


def _mib(cell: str) -> int | None:
    found = number(cell.replace("MiB", ""))
    return None if found is None or found >= 1 << 24 else found * MIB


def _bus(text: str) -> str:
    """The bus address in the kernel's form: nvidia-smi gives the domain eight digits."""
    match = re.fullmatch(r"([0-9A-Fa-f]{4,8}):([0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9a-fA-F])", text.strip())
    return f"{match[1][-4:]}:{match[2]}".lower() if match else ""


def _first(text: str) -> str:
    return printable(next((line.strip() for line in text.splitlines() if line.strip()), ""), 200)


def _advice(said: str) -> str:
    return next((advice for part, advice in _BROKEN if part in said), "")
