"""Find this machine's cards by asking the tools that its drivers bring."""

from __future__ import annotations

import json
import re
import sys
from typing import Final

from .._base.errors import GpuError
from .catalogue import MIB, Card, rules
from .names import versions
from .noun import CUDA_CAPABILITY, MAX_GPUS, Gpu

__all__ = ["detect_gpus", "parse_nvidia_smi", "parse_rocm_smi", "parse_sysctl"]

TIMEOUT_S: Final = 5.0
NVIDIA_SMI: Final = (
    "nvidia-smi", "--query-gpu=name,memory.total,memory.free,compute_cap", "--format=csv,noheader,nounits",
)  # fmt: skip
ROCM_SMI: Final = ("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json")
SYSCTL: Final = ("sysctl", "machdep.cpu.brand_string", "hw.memsize", "iogpu.wired_limit_mb")


def detect_gpus() -> tuple[Gpu, ...]:
    """Ask the drivers' tools for this machine's cards, the engine's choice of backend first; () where none answers.

    Free memory is measured now, less what a process's own context will take. Never raises.
    """
    if sys.platform == "darwin":
        return parse_sysctl(_run(SYSCTL))
    return (parse_nvidia_smi(_run(NVIDIA_SMI)) or parse_rocm_smi(_run(ROCM_SMI)))[:MAX_GPUS]


def _run(command: tuple[str, ...]) -> str:
    """Run a tool and return what it prints; nothing where it is absent, fails or hangs."""
    import subprocess

    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
            encoding="utf-8", errors="replace", stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout  # some tools complain in their status and still answer


def parse_nvidia_smi(text: str) -> tuple[Gpu, ...]:
    """Read the CSV of `nvidia-smi` as cards: name, total MiB, free MiB, compute capability.

    A line without numbers (a card that shares the system's memory, an error) falls back to the
    catalogue, or is left out when the catalogue does not know the card.
    """
    gpus = []
    for line in text.splitlines():
        cells = [c.strip() for c in line.split(",")]
        if len(cells) < 4 or not cells[0]:
            continue
        total, free = cells[-3:-1]
        cc = cells[-1] if CUDA_CAPABILITY.fullmatch(cells[-1]) else None  # "[N/A]" of old drivers
        known = _known(cells[0], "nvidia", int(total) if total.isdigit() else 0)
        if total.isdigit() and free.isdigit() and int(total) > 0:
            gpus.append(_measured(cells[0], known, int(total), int(free), cc))
        elif known and (mib := rules().total_mib(known)):
            gpus.append(_gpu(known.name, known, mib, None, cc))
    return tuple(gpus)


def _measured(name: str, known: Card | None, smi_mib: int, free_mib: int, cc: str | None) -> Gpu:
    # The engine sees less than nvidia-smi prints: the driver keeps a part for itself.
    card = Card(id="", name=name, vendor="nvidia", backend="cuda", arch="", nvidia_smi_mib=smi_mib,
                sm=known.sm if known else None)  # fmt: skip
    total = rules().total_mib(card) or smi_mib
    if known and known.linux_mib and known.nvidia_smi_mib == smi_mib:
        total = known.linux_mib[0]
    return _gpu(name, known, total, min(free_mib, total) - rules().context_mib(card, total), cc)


def parse_rocm_smi(text: str) -> tuple[Gpu, ...]:
    """Read the JSON of `rocm-smi --showproductname --showmeminfo vram --json` as cards; sizes in bytes."""
    try:
        data = json.loads(text)
    except ValueError:
        return ()
    gpus = []
    for card, values in sorted(data.items()) if isinstance(data, dict) else ():
        if not card.startswith("card") or not isinstance(values, dict):
            continue
        total, used = (str(values.get(f"VRAM Total {k}Memory (B)", "")) for k in ("", "Used "))
        if not total.isdigit() or int(total) < MIB:
            continue
        name = str(values.get("Card Series") or values.get("Card series") or "AMD GPU")
        mib = int(total) // MIB
        known = _known(name, "amd", mib)
        nobody = Card(id="", name=name, vendor="amd", backend="hip", arch="")
        taken = -(-int(used) // MIB) if used.isdigit() else 0
        gfx = re.match(r"gfx[0-9a-f]+", str(values.get("GFX Version")))
        free = mib - taken - rules().context_mib(nobody, mib) if used.isdigit() else None
        gpus.append(_gpu(name, known, mib, free, gfx[0] if gfx else None, "hip"))
    return tuple(gpus)


def parse_sysctl(text: str) -> tuple[Gpu, ...]:
    """Read `sysctl` as the GPU of a Mac: the chip, its RAM, and the wired limit if one is set."""
    values = {k.strip(): v.strip() for k, _, v in (x.partition(":") for x in text.splitlines())}
    chip, ram = values.get("machdep.cpu.brand_string", ""), values.get("hw.memsize", "")
    if not chip.startswith("Apple") or not ram.isdigit() or not int(ram) >> 30:
        return ()
    gib = int(ram) >> 30
    card = _known(f"{chip} {gib}GB", "apple") or Card(
        id="", name=f"{chip} {gib}GB", vendor="apple", backend="metal", arch="", memory_gib=gib, unified=True
    )
    limit = values.get("iogpu.wired_limit_mb", "0")
    total = int(limit) if limit.isdigit() and 0 < int(limit) <= gib * 1024 else rules().total_mib(card)
    assert total is not None  # the RAM is known
    return (_gpu(card.name, card, total, None, None, "metal"),)


def _known(name: str, vendor: str, mib: int = 0) -> Card | None:
    """Find the catalogue's card of this name; drivers leave out the size that tells versions apart."""
    for full in (f"{name} {round(mib / 1024)}GB", name):
        try:
            cards = [c for c in versions(full) if c.vendor == vendor]
        except GpuError:
            continue
        if len(cards) == 1 or (cards and not mib):
            return cards[0]
    return None


def _gpu(
    name: str, known: Card | None, total_mib: int, free_mib: int | None, cc: str | None, backend: str = "cuda"
) -> Gpu:
    card = known or Card(id="", name=name, vendor="", backend=backend, arch="")
    return Gpu(
        name=name if name.isprintable() else "GPU",
        total_bytes=total_mib * MIB,
        free_bytes=None if free_mib is None else max(free_mib, 0) * MIB,
        backend=backend,
        bandwidth_gbs=card.bandwidth_gbs,
        compute_capability=cc or card.compute_capability,
        overhead_bytes=min(rules().context_mib(card, total_mib), total_mib) * MIB,
        unified=card.unified,
        id=card.id or None,
    )
