"""Ask AMD's driver: its library (`amdsmi`, an extra), the kernel's files, or `rocm-smi`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ..ask import called, imported
from .nouns import Asked, Here, Report, Seen, User, number
from .pci import Slot, model_name

__all__ = ["ask_amd", "ask_amdsmi", "ask_rocm_smi", "ask_sysfs", "gfx_name", "parse_kfd", "parse_rocm_smi"]

ROCM_SMI: Final = ("rocm-smi", "--showproductname", "--showbus", "--showmeminfo", "all", "--json")
NODES: Final = "sys/class/kfd/kfd/topology/nodes"
# The targets of GPUs that share the system's memory (LLVM: AMDGPUUsage, processors).
INTEGRATED: Final = frozenset(
    f"gfx{n}"
    for n in ("902", "909", "90c", "1033", "1035", "1036", "1037", "1103", "1150", "1151", "1152", "1153")
)
# Where no target is told: names of libdrm's list that only such GPUs have.
_BUILT_IN: Final = re.compile(
    r"Radeon(?:\(TM\))?(?: Vega \d+| R\d)? Graphics$|Radeon(?:\(TM\))? \d{3,4}[MS]\b|Radeon Vega \d+$"
)
_GFX: Final = re.compile(r"gfx[0-9a-f]{3,5}")
_BUS: Final = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]")


def ask_amd(here: Here, slots: tuple[Slot, ...], users: Mapping[str, tuple[User, ...]]) -> tuple[Report, ...]:
    """Ask the library, else the kernel, and `rocm-smi` where there is no kernel to ask or it has no name for a card."""
    first = ask_amdsmi(here)
    if first.seen:
        return (_with_users(first, users),)
    second = ask_sysfs(here, slots, users)
    if second.seen and all(card.name != UNNAMED for card in second.seen):
        return first, second
    third = ask_rocm_smi(here)
    if not second.seen:
        return first, second, third
    names = {card.bus: card.name for card in third.seen if card.bus}
    named = tuple(replace(card, name=names.get(card.bus, card.name)) for card in second.seen)
    return first, replace(second, seen=named), replace(third, seen=())


UNNAMED: Final = "AMD GPU"


def ask_sysfs(here: Here, slots: tuple[Slot, ...], users: Mapping[str, tuple[User, ...]]) -> Report:
    """Read what the amdgpu driver says of its cards in /sys: sizes in bytes, and the target from /sys/class/kfd."""
    source, failure, advice = "amdgpu (/sys)", "", ""
    own = [slot for slot in slots if slot.vendor == "amd"]
    targets = _targets(here)
    cards = [card for slot in own if (card := _from_sysfs(here, slot, targets.get(slot.bus), users))]
    if own and not cards:
        failure = "the kernel shows an AMD card and no memory of it"
        advice = "load its driver: `sudo modprobe amdgpu`; in a container pass /sys and /dev/dri, /dev/kfd"
    return Report(Asked(source, len(cards), missing=not own, failure=failure, advice=advice), tuple(cards))


def _from_sysfs(
    here: Here, slot: Slot, gfx: str | None, users: Mapping[str, tuple[User, ...]]
) -> Seen | None:
    sizes = {
        f"{kind}_{what}": here.number(slot.folder / f"mem_info_{kind}_{what}")
        for kind in ("vram", "gtt")
        for what in ("total", "used")
    }
    if not sizes["vram_total"]:
        return None
    name = here.read(slot.folder / "product_name", 200).strip() or model_name(here, slot) or UNNAMED
    return _card(name, gfx, sizes, slot.bus, users.get(slot.bus, ()))


def _card(
    name: str, gfx: str | None, sizes: Mapping[str, int | None], bus: str, users: tuple[User, ...] = ()
) -> Seen:
    """Make a card of its sizes in bytes; of one that surely shares the system's memory the larger pool counts, not both."""
    sure = gfx in INTEGRATED
    unified = sure or (gfx is None and _BUILT_IN.search(name) is not None)
    kind = "gtt" if sure and (sizes.get("gtt_total") or 0) > (sizes.get("vram_total") or 0) else "vram"
    total, used = sizes.get(f"{kind}_total"), sizes.get(f"{kind}_used")
    return Seen(
        name=name,
        vendor="amd",
        total_bytes=total,
        free_bytes=None if total is None or used is None else max(0, total - used),
        compute_capability=gfx,
        bus=bus,
        unified=unified,
        users=users,
    )


def _targets(here: Here) -> dict[str, str]:
    """The target of each card by its place on the bus."""
    try:
        nodes = sorted((here.root / NODES).iterdir())
    except OSError:
        return {}
    found = (parse_kfd(here.read(Path(NODES) / node.name / "properties")) for node in nodes)
    return dict(node for node in found if node)


def parse_kfd(text: str) -> tuple[str, str] | None:
    """Read the properties of a node of the kernel's topology: place on the bus and target; None for a CPU."""
    values = dict(re.findall(r"^(\w+) (\d{1,19})$", text, re.MULTILINE))
    gfx, place = gfx_name(int(values.get("gfx_target_version", 0))), int(values.get("location_id", 0))
    if not gfx:
        return None
    domain = int(values.get("domain", 0)) & 0xFFFF
    return f"{domain:04x}:{place >> 8 & 0xFF:02x}:{place >> 3 & 31:02x}.{place & 7}", gfx


def gfx_name(version: int) -> str:
    """Name the target of KFD's number: 110501 is "gfx1151", 90010 "gfx90a", 0 (a CPU) ""."""
    if not 0 < version < 1_000_000:
        return ""
    return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"


def ask_rocm_smi(here: Here) -> Report:
    """Ask `rocm-smi`, which prints JSON, with warnings before it where a card sleeps."""
    answer = here.ask(*ROCM_SMI)
    seen = parse_rocm_smi(answer.text)
    if answer.missing or not seen:
        said = answer.failure or "named no card"
        advice = "the driver hangs: restart the machine" if "did not answer" in said else ""
        return Report(Asked("rocm-smi", missing=answer.missing, failure=said, advice=advice))
    return Report(Asked("rocm-smi", len(seen)), seen)


def parse_rocm_smi(text: str) -> tuple[Seen, ...]:
    """Read the JSON of `rocm-smi --showproductname --showmeminfo … --json`; sizes are bytes."""
    try:
        data, _ = json.JSONDecoder().raw_decode(text[text.index("{") :])
    except (ValueError, RecursionError):
        return ()
    found = []
    for card, values in data.items() if isinstance(data, dict) else ():
        if not re.fullmatch(r"card\d{1,3}", card) or not isinstance(values, dict):
            continue
        sizes = {
            f"{kind.lower()}_{what}": number(str(values.get(f"{kind} Total {word}Memory (B)", "")))
            for kind in ("VRAM", "GTT")
            for what, word in (("total", ""), ("used", "Used "))
        }
        gfx = _GFX.match(str(values.get("GFX Version", "")))
        bus = _BUS.fullmatch(str(values.get("PCI Bus", "")).lower())
        if sizes["vram_total"]:
            name = str(values.get("Card Series") or values.get("Card series") or UNNAMED)
            named = UNNAMED if name in ("N/A", "") else name
            found.append(_card(named, gfx[0] if gfx else None, sizes, bus[0] if bus else ""))
    return tuple(found)


def ask_amdsmi(here: Here, smi: Any = None) -> Report:
    """Ask the driver's library by way of `amdsmi`, if it is installed. `smi` stands for the module in tests."""
    if smi is None:
        smi, answer = imported("amdsmi")
        if smi is None:
            return Report(Asked("amdsmi", missing=answer.missing, failure=answer.failure))
    seen, failure = called(lambda: _library(smi), timeout_s=here.timeout_s)
    if failure or not seen:
        return Report(Asked("amdsmi", failure=failure or "named no card"))
    return Report(Asked("amdsmi", len(seen)), tuple(seen))


def _library(smi: Any) -> list[Seen]:
    smi.amdsmi_init()
    try:
        return [_from_library(smi, handle) for handle in smi.amdsmi_get_processor_handles()]
    finally:
        smi.amdsmi_shut_down()


def _from_library(smi: Any, handle: Any) -> Seen:
    def get(name: str, *more: Any) -> Any:
        """Call a function of the library; None for what this card or driver does not support."""
        try:
            return getattr(smi, name)(handle, *more)
        except Exception:
            return None

    asic = get("amdsmi_get_gpu_asic_info") or {}
    sizes = {
        f"{kind.lower()}_{what}": get(
            f"amdsmi_get_gpu_memory_{function}", getattr(smi.AmdSmiMemoryType, kind)
        )
        for kind in ("VRAM", "GTT")
        for what, function in (("total", "total"), ("used", "usage"))
    }
    gfx = _GFX.fullmatch(str(asic.get("target_graphics_version", "")))
    name = str(asic.get("market_name", "N/A"))
    bus = str(get("amdsmi_get_gpu_device_bdf") or "").lower()
    named = UNNAMED if name == "N/A" else name
    return _card(named, gfx[0] if gfx else None, sizes, bus if _BUS.fullmatch(bus) else "")


def _with_users(report: Report, users: Mapping[str, tuple[User, ...]]) -> Report:
    return replace(report, seen=tuple(replace(c, users=users.get(c.bus, ())) for c in report.seen))
