"""Ask macOS for the GPU of a Mac: the chip, its memory, and how much of it the GPU may use."""

from __future__ import annotations

from typing import Final

from ..catalogue import MIB, Card, rules
from .nouns import Asked, Here, Report, Seen, number

__all__ = ["ask_apple", "parse_sysctl"]

# The limit was called `debug.…` in macOS 13; what a system does not know it complains about, and answers the rest.
SYSCTL: Final = (
    "sysctl", "machdep.cpu.brand_string", "hw.memsize", "kern.osproductversion", "iogpu.wired_limit_mb",
    "debug.iogpu.wired_limit",
)  # fmt: skip


def ask_apple(here: Here) -> Report:
    """Ask `sysctl`."""
    answer = here.ask(*SYSCTL)
    seen = parse_sysctl(answer.text)
    if seen:
        return Report(Asked("sysctl", 1), (seen,))
    said = "no chip of Apple's: vramfit counts no Metal of other cards" if answer.text else answer.failure
    return Report(Asked("sysctl", missing=answer.missing, failure=said))


def parse_sysctl(text: str) -> Seen | None:
    """Read `sysctl`: the chip and its memory; the size is the limit that was set, else the one that macOS sets itself."""
    values = {k.strip(): v.strip() for k, _, v in (x.partition(":") for x in text.splitlines())}
    chip, ram = values.get("machdep.cpu.brand_string", ""), number(values.get("hw.memsize", "")) or 0
    gib = ram >> 30
    if not chip.startswith("Apple") or not 0 < gib < 1 << 14:
        return None
    set_to = number(values.get("iogpu.wired_limit_mb", values.get("debug.iogpu.wired_limit", ""))) or 0
    total = set_to if 0 < set_to <= gib * 1024 else _limit(gib, values.get("kern.osproductversion", ""))
    return Seen(f"{chip} {gib}GB", "apple", total * MIB, backend="metal", unified=True)


def _limit(gib: int, version: str) -> int:
    """What macOS lends the GPU of so much memory, in MiB: as seen under version 26, else by the lower rule of older ones."""
    newer = rules().apple_limit["macos_26"]
    seen = newer["observed_mib"].get(str(gib))
    if version.partition(".")[0] == "26" and seen and str(gib) not in newer["unverified"]:
        return int(seen)
    card = Card(id="", name="", vendor="apple", backend="metal", arch="", memory_gib=gib, unified=True)
    return rules().total_mib(card) or 0
