"""What the kernel says of the cards on the bus: whose they are, which model, which driver serves them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .nouns import Here

__all__ = ["Slot", "model_name", "parse_amdgpu_ids", "parse_pci_ids", "slots"]

VENDORS: Final = {0x10DE: "nvidia", 0x1002: "amd", 0x8086: "intel"}
CLASSES: Final = (0x0300, 0x0302, 0x0380, 0x1200)  # VGA, 3D, other displays, accelerators
DEVICES: Final = "sys/bus/pci/devices"
AMD_IDS: Final = ("usr/share/libdrm/amdgpu.ids", "opt/amdgpu/share/libdrm/amdgpu.ids")
PCI_IDS: Final = ("usr/share/hwdata/pci.ids", "usr/share/misc/pci.ids", "usr/share/pci.ids")
MOST: Final = 4 << 20  # bytes of a list of names


@dataclass(frozen=True, slots=True)
class Slot:
    """A card on the bus. `folder` is relative to the root of the machine."""

    bus: str
    vendor: str
    device: int
    revision: int
    folder: Path
    driver: str = ""


def slots(here: Here) -> tuple[Slot, ...]:
    """List the cards that the kernel sees, by their place on the bus; () where it says nothing."""
    try:
        folders = sorted((here.root / DEVICES).iterdir())
    except OSError:
        return ()
    found = []
    for folder in folders:
        at = Path(DEVICES) / folder.name
        kind, vendor = _hex(here, at / "class"), VENDORS.get(_hex(here, at / "vendor"), "")
        if vendor and kind >> 8 in CLASSES:
            driver = folder / "driver"
            name = driver.resolve().name if driver.exists() else ""
            device, revision = _hex(here, at / "device"), _hex(here, at / "revision")
            found.append(Slot(folder.name, vendor, device, revision, at, name))
    return tuple(found)


def _hex(here: Here, path: Path) -> int:
    text = here.read(path, 32).strip()
    return int(text, 16) if re.fullmatch(r"0x[0-9a-fA-F]{1,8}", text) else 0


def model_name(here: Here, slot: Slot) -> str:
    """Name the model of a card by the lists that the drivers bring; "" where none knows it."""
    if slot.vendor == "amd":
        for path in AMD_IDS:
            if name := parse_amdgpu_ids(here.read(path, MOST), slot.device, slot.revision):
                return name
    vendor = next(number for number, name in VENDORS.items() if name == slot.vendor)
    for path in PCI_IDS:
        if name := parse_pci_ids(here.read(path, MOST), vendor, slot.device):
            return name
    return ""


def parse_amdgpu_ids(text: str, device: int, revision: int) -> str:
    """Find the name of a device and revision in libdrm's `amdgpu.ids`; "" where it is not in there."""
    match = re.search(rf"^{device:04X},\s*{revision:02X},\s*(\S.*?)\s*$", text, re.MULTILINE)
    return match[1] if match else ""


def parse_pci_ids(text: str, vendor: int, device: int) -> str:
    """Find the product's name in `pci.ids`: what stands in brackets behind the chip's; "" where several share an id."""
    section = re.search(rf"^{vendor:04x}  .*\n((?:[\t#].*\n|\n)*)", text, re.MULTILINE)
    match = re.search(rf"^\t{device:04x}  (.*)$", section[1], re.MULTILINE) if section else None
    product = re.search(r"\[([^\]]+)\]", match[1]) if match else None
    return product[1] if product and "/" not in product[1] else ""
