"""Say what this machine has to run models with, what it would not tell, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .._base.shown import Shown
from .._devices.detect import Found, Here, find_cards
from .._devices.host_memory import HostMemory, host_memory
from .installed import Installed, installed_engines

__all__ = ["Diagnosis", "diagnose", "doctor"]


@dataclass(frozen=True, slots=True)
class Diagnosis(Shown):
    """What was found on a machine: its cards, its memory, its engines. `advice` says what to do next, most urgent first."""

    platform: str
    found: Found
    host: HostMemory | None
    engines: tuple[Installed, ...] = ()
    advice: tuple[str, ...] = ()


def doctor() -> Diagnosis:
    """Ask this machine for its cards and their backends, its memory and its engines. Never raises."""
    return diagnose(Here())


def diagnose(here: Here) -> Diagnosis:
    """Ask a machine, as `doctor` asks this one."""
    found, host = find_cards(here), host_memory(platform=here.platform, root=here.root)
    engines = installed_engines(here)
    return Diagnosis(here.platform, found, host, engines, tuple(_advice(found, host, engines)))


def _advice(found: Found, host: HostMemory | None, engines: Sequence[Installed]) -> list[str]:
    said = [f"{a.source}: {a.failure or 'answered in part'}; {a.advice}" for a in found.asked if a.advice]
    said += found.lacking
    if not found.gpus:
        said.append(
            "no card was found: name those that you plan for, as in --gpus 3090ti,3060, or plan for the processor alone with"
            " --gpus none"
        )
    if host is None:
        said.append("the system does not say how much memory it has")
    elif host.limited:
        said.append("a container limits the memory of programs here; on the machine itself there may be more")
    for engine in engines:
        if not engine.build:
            said.append(
                f"{engine.program}: {engine.failure}; name its build where you plan, as in --engine-build b9527"
            )
    if not engines:
        said.append("no engine was found on the path: plans count by the rules of the newest llama.cpp known")
    if found.gpus:
        said.append("plan for this machine with `vramfit plan MODEL`; --gpus auto is the default")
    return said
