"""Write the catalogue of cards as a table and as JSON: `vramfit gpus`."""

from __future__ import annotations

from .._base.foreign import json_text
from .._base.units import MIB, format_bytes
from .._devices import Card, Gpu, all_gpus, rules, versions
from .._devices.spec import from_card
from .look import PLAIN, Look
from .tables import render_facts, render_table

__all__ = ["gpus_json", "gpus_text"]


def gpus_text(name: str | None, look: Look = PLAIN) -> str:
    """List all cards, one a line, or everything that is known of those called `name`. Raises `GpuError`."""
    if name is not None:
        return "\n\n".join(_one(card, look) for card in versions(name))
    rows = [
        [
            g.id or "",
            g.name,
            g.backend,
            g.compute_capability or "",
            _mib(g.total_bytes),
            _mib(g.free),
            _bandwidth(g),
        ]
        for g in all_gpus()
    ]
    head = ["id", "card", "backend", "cc", "MiB", "free MiB", "GB/s"]
    return render_table(head, rows, left=4, look=look, drop=("cc", "id", "GB/s", "MiB", "backend"))


def _one(card: Card, look: Look) -> str:
    facts = [
        ("id", card.id),
        ("name", card.name),
        ("also", ", ".join(card.aliases)),
        ("backend", card.backend),
        ("architecture", card.arch),
        ("compute capability", card.compute_capability or ""),
        ("memory", f"{card.memory_gib} GiB on the box" if card.memory_gib else "the system's"),
        ("nvidia-smi", f"{card.nvidia_smi_mib} MiB" if card.nvidia_smi_mib else ""),
        ("under Linux", _range(card.linux_mib)),
        ("under Windows", f"{card.windows_mib} MiB" if card.windows_mib else ""),
        ("a plan counts on", _planned(card)),
        ("bandwidth", f"{card.bandwidth_gbs:g} GB/s" if card.bandwidth_gbs else ""),
        ("not verified", ", ".join(card.unverified)),
        ("sources", ", ".join(card.sources)),
        ("note", card.note),
    ]
    width = max(len(title) for title, _ in facts) + 2
    return render_facts([(title, value) for title, value in facts if value], look, width)


def _planned(card: Card) -> str:
    if rules().total_mib(card) is None:
        return f"nothing until told: {card.id}:16GiB"
    gpu = from_card(card)
    return f"{_mib(gpu.free)} of {_mib(gpu.total_bytes)} MiB ({format_bytes(gpu.overhead_bytes)} for the driver context)"


def _range(mib: tuple[int, int] | None) -> str:
    if mib is None:
        return ""
    return f"{mib[0]} MiB" if mib[0] == mib[1] else f"{mib[0]} to {mib[1]} MiB"


def _mib(n: int) -> str:
    return str(n // MIB)


def _bandwidth(gpu: Gpu) -> str:
    return f"{gpu.bandwidth_gbs:g}" if gpu.bandwidth_gbs else ""


def gpus_json(name: str | None) -> str:
    """Write an array with all cards, or with those called `name` (docs/reference/json.md)."""
    from .schema import GpuJson

    cards = all_gpus() if name is None else tuple(map(from_card, versions(name)))
    found = [
        GpuJson(
            id=g.id or "", name=g.name, backend=g.backend, total=g.total_bytes, free=g.free,
            bandwidth_gbs=g.bandwidth_gbs, compute_capability=g.compute_capability,
        )
        for g in cards
    ]  # fmt: skip
    return json_text([g.model_dump() for g in found])
