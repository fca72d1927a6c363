"""Find this machine's cards: ask the drivers and the engine, and put together what they say."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from ..._base.errors import GpuError
from ..host_memory import host_memory
from ..noun import MAX_GPUS, Gpu
from .amd import ask_amd
from .apple import ask_apple
from .engine import PROGRAM, ask_engine
from .fdinfo import users_by_bus
from .gpus import gpu_of
from .intel import ask_intel
from .merge import is_integrated, lacking_sentence, merged, used
from .nouns import Asked, Found, Here, Report, Seen
from .nvidia import ask_nvidia
from .pci import Slot, slots
from .visible import visible

__all__ = ["detect_gpus", "find_cards", "own_cards"]

_JETSON: Final = re.compile(r"NVIDIA (Jetson [\w ]+?)(?: Developer Kit| Super)*$|(Jetson-AGX)")


def detect_gpus() -> tuple[Gpu, ...]:
    """Ask the drivers and the engine for this machine's cards, in the engine's order; () where none answers.

    Free memory is measured now, less what a process's own context will take. `Gpu.assumed` says who holds the
    rest, and what else is to be known of a card. Never raises.
    """
    return find_cards().gpus


def own_cards(engine: str | None = None, here: Here | None = None) -> tuple[Gpu, ...]:
    """This machine's cards, for a plan with `engine` ("" or None: llama-server).

    Raises `GpuError` where there is none, and where the llama-server at hand uses none of them.
    """
    found = find_cards(here)
    if not found.gpus:
        asked = [f"{a.source}: {a.failure}" for a in found.asked if a.failure and not a.missing]
        because = f" ({'; '.join(asked)})" if asked else ""
        raise GpuError(
            f"no cards found on this machine{because}; `vramfit doctor` says what was asked. Name them, as in --gpus"
            " 3090ti,3060, or give --gpus none"
        )
    if found.lacking and not any(s.by_engine for s in found.seen) and _is_server(engine):
        raise GpuError(f"{found.lacking[0]}, as in --gpus {found.gpus[0].id or '24GiB'}")
    return found.gpus


def _is_server(engine: str | None) -> bool:
    return not engine or engine.partition("@")[0] in (PROGRAM, "llama.cpp", "auto")


def find_cards(here: Here | None = None) -> Found:
    """Ask every source of this machine at once, and say what each answered. Never raises.

    Where `llama-server` lists its devices they are the cards, in its order and by its backends; else those that the
    drivers show and the environment leaves.
    """
    here = here or Here()
    on_bus = () if here.platform in ("darwin", "win32") else slots(here)
    listed: list[Report] = []
    listing = threading.Thread(target=lambda: listed.append(ask_engine(here)), daemon=True)
    listing.start()  # it takes as long as all drivers together
    reports = _drivers(here, on_bus)
    listing.join()
    (engine,) = listed
    cards = _each_once([card for report in reports for card in report.seen])
    shown, notes = visible(cards, here.environ)
    devices, left = merged(engine.seen, shown) if not engine.asked.failure else ((), shown)
    lacking = (
        () if engine.asked.failure else tuple(lacking_sentence(c, PROGRAM) for c in left if _is_wanted(c))
    )
    counted, dropped = used(devices or shown)
    notes = (*notes, *dropped, *_order(here, counted, bool(devices)), *_system(here))
    asked = (*(r.asked for r in reports), engine.asked, *_unserved(on_bus, cards))
    return _made(here, counted[:MAX_GPUS], asked, notes, lacking)


def _drivers(here: Here, on_bus: tuple[Slot, ...]) -> tuple[Report, ...]:
    if here.platform == "darwin":
        return (ask_apple(here),)
    users = users_by_bus(here) if any(slot.vendor != "nvidia" for slot in on_bus) else {}
    found = (*ask_nvidia(here), *ask_amd(here, on_bus, users), *ask_intel(here, on_bus, users))
    board = _jetson(here)
    return (*found, board) if board and not any(r.seen for r in found) else found


def _jetson(here: Here) -> Report | None:
    """A Jetson's board, which is on no bus: the device tree names it, and its memory is the system's."""
    model = here.read("proc/device-tree/model", 200).strip("\0\n ")
    match = _JETSON.match(model)
    if not match:
        return None
    host = host_memory(platform=here.platform, root=here.root)
    gib = 1 << ((host.total_bytes - 1) >> 30).bit_length() if host else 0
    name = f"{match[1] or match[2]} {gib}GB" if gib else match[1] or match[2]
    return Report(Asked("device tree", 1), (Seen(name, "nvidia", unified=True),))


def _each_once(cards: Sequence[Seen]) -> tuple[Seen, ...]:
    """Cards that two sources named, by their place on the bus, once."""
    found: dict[str | int, Seen] = {}
    for i, card in enumerate(cards):
        found.setdefault(card.bus or i, card)
    return tuple(found.values())


def _is_wanted(card: Seen) -> bool:
    """Whether the engine should have used it: an integrated GPU of a PC is no loss."""
    return card.vendor in ("nvidia", "apple") or not is_integrated(card)


def _made(
    here: Here,
    cards: Sequence[Seen],
    asked: tuple[Asked, ...],
    notes: tuple[str, ...],
    lacking: tuple[str, ...],
) -> Found:
    host = host_memory(platform=here.platform, root=here.root)
    pairs = [(gpu_of(card, host), card) for card in cards]
    unknown = [
        f"{card.name}: no source says how much memory it has; to plan for it give that, as in --gpus 16GiB"
        for gpu, card in pairs
        if gpu is None
    ]
    known = [(gpu, card) for gpu, card in pairs if gpu is not None]
    said = "; ".join((*notes, *(lacking if known and any(c.by_engine for _, c in known) else ())))
    gpus = [gpu for gpu, _ in known]
    if gpus and said:
        gpus[0] = replace(gpus[0], assumed="; ".join(filter(None, (gpus[0].assumed, said))))
    return Found(tuple(gpus), tuple(c for _, c in known), asked, (*notes, *unknown), lacking)


def _order(here: Here, cards: Sequence[Seen], by_engine: bool) -> tuple[str, ...]:
    """Whether the order of the cards is the engine's: CUDA puts the fastest first, its driver's tool the first on the bus."""
    own = [c for c in cards if c.vendor == "nvidia"]
    if by_engine or len({c.name for c in own}) < 2 or here.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
        return ()
    return (
        "the cards stand in the order of nvidia-smi, where CUDA puts the fastest first: run the engine with"
        " CUDA_DEVICE_ORDER=PCI_BUS_ID, so that a split meets the cards that it was made for",
    )


def _system(here: Here) -> tuple[str, ...]:
    """What is to be known of free memory under Windows, and in its Linux."""
    if here.platform == "win32":
        return (
            "Windows shares a card's memory out: a model that is too large does not fail but spills, and crawls",
        )
    if "microsoft" in here.read("proc/sys/kernel/osrelease", 200).lower():
        return (
            "WSL: the desktop and the programs of Windows hold a part of each card, and no tool here says which",
        )
    return ()


def _unserved(on_bus: Sequence[Slot], cards: Sequence[Seen]) -> tuple[Asked, ...]:
    """Cards that the kernel sees on the bus and no driver answered for."""
    drivers = {"nvidia": "NVIDIA's driver", "amd": "the amdgpu driver", "intel": "the xe or i915 driver"}
    answered = {card.vendor for card in cards}
    return tuple(
        Asked(
            f"PCI {slot.bus}",
            failure=f"a card of {slot.vendor.upper()} ({slot.device:#06x}, driver {slot.driver or 'none'}) that no source knows",
            advice=f"install or load {drivers[slot.vendor]}; in a container pass the card through",
        )
        for slot in on_bus
        if slot.vendor not in answered
    )
