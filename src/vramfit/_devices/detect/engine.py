"""Ask the engine itself: `llama-server --list-devices`, which names its devices in their order, with what is free."""

from __future__ import annotations

import re
from typing import Final

from ..catalogue import MIB
from .nouns import Asked, Here, Report, Seen

__all__ = ["BACKENDS", "PROGRAM", "ask_engine", "parse_devices", "vendor_of"]

PROGRAM: Final = "llama-server"
TIMEOUT_S: Final = 20.0  # Metal's first start compiles its library
BACKENDS: Final = {
    "CUDA": "cuda", "ROCm": "hip", "HIP": "hip", "Vulkan": "vulkan", "MTL": "metal", "Metal": "metal", "SYCL": "sycl",
}  # fmt: skip
_HEAD: Final = "Available devices:"
# common/arg.cpp:1162; builds of 2025 called Metal's device "Metal", and a name may hold brackets of its own.
_DEVICE: Final = re.compile(
    r"\s{1,8}([A-Za-z]+)(\d*)\S*: (\S.*?)(?: \((\d{1,9}) MiB, (\d{1,9}) MiB free\))?\s*"
)
# What CUDA and ROCm print of their devices when they start (ggml-cuda.cu).
_STARTED: Final = re.compile(
    r"^\s*Device (\d+): .*?, (?:compute capability (\d{1,2}\.\d)|(gfx[0-9a-f]{3,5}))\b", re.MULTILINE
)
# What Vulkan's backend prints of its devices: the driver's own name, whether memory is the system's, 16-bit floats.
_VULKAN: Final = re.compile(r"ggml_vulkan: (\d{1,3}) = .* \(([^()]*)\) \| uma: ([01]) \| fp16: ([01])")
DRIVERS: Final = {
    "radv": "radv", "AMD proprietary driver": "amd-windows", "AMD open-source driver": "amdvlk",
    "Intel open-source Mesa driver": "anv", "Intel Corporation": "intel-windows", "NVIDIA": "nvidia", "MoltenVK": "moltenvk",
}  # fmt: skip
_VENDORS: Final = (
    ("nvidia", "nvidia|geforce|quadro|tesla|rtx|gtx"),
    ("amd", "amd|radeon|instinct"),
    ("intel", "intel"),
    ("apple", "apple"),
)
_SOFTWARE: Final = re.compile("llvmpipe|lavapipe|swiftshader|basic render", re.IGNORECASE)


def ask_engine(here: Here) -> Report:
    """Ask the `llama-server` that is found on the path."""
    answer = here.ask(PROGRAM, "--list-devices", timeout_s=max(TIMEOUT_S, here.timeout_s))
    source = f"{PROGRAM} --list-devices"
    if answer.missing:
        return Report(Asked(source, missing=True, failure=answer.failure))
    seen = parse_devices(answer.text, answer.errors)
    if seen is None:
        said = answer.failure or "listed no devices; builds before November 2024 do not"
        return Report(Asked(source, failure=said, advice=f"try `{PROGRAM} --list-devices` by hand"))
    return Report(Asked(source, len(seen)), seen)


def parse_devices(text: str, log: str = "") -> tuple[Seen, ...] | None:
    """Read `--list-devices`, and what its backends logged: the devices of the engine in its order.

    Left out: what is no card (BLAS, software), and backends that have no rules here. None where no list was printed.
    """
    lines = text.splitlines()
    if _HEAD not in (line.strip() for line in lines):
        return None
    start = next(i for i, line in enumerate(lines) if line.strip() == _HEAD)
    capabilities = {int(n): cuda or gfx for n, cuda, gfx in _STARTED.findall(f"{text}\n{log}")}
    vulkan = {int(n): rest for n, *rest in _VULKAN.findall(f"{text}\n{log}")}
    found = []
    for line in lines[start + 1 :]:
        match = _DEVICE.fullmatch(line)
        if match and (backend := BACKENDS.get(match[1])) and not _SOFTWARE.search(match[3]):
            total, free = (int(n) * MIB if n else 0 for n in match.group(4, 5))
            measured = backend not in ("vulkan", "sycl") or free < total  # these say so where they cannot ask
            logged = vulkan.get(int(match[2] or 0)) if backend == "vulkan" else None
            driver, uma, fp16 = logged or ("", "0", "")
            found.append(
                Seen(
                    name=match[3],
                    vendor=vendor_of(match[3]),
                    total_bytes=total or None,
                    free_bytes=min(free, total) if total and measured else None,
                    backend=backend,
                    compute_capability=capabilities.get(int(match[2] or 0))
                    if backend in ("cuda", "hip")
                    else None,
                    by_engine=True,
                    unified=uma == "1",
                    driver=DRIVERS.get(driver, "radv" if "(RADV " in match[3] else ""),
                    fp16=fp16 == "1" if fp16 else None,
                )
            )
    return tuple(found)


def vendor_of(name: str) -> str:
    """Tell whose card it is by a driver's name for it; "" where that does not say."""
    return next((vendor for vendor, words in _VENDORS if re.search(words, name, re.IGNORECASE)), "")
