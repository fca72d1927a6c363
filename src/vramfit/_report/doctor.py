"""Write a `Diagnosis` of a machine as text and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._base.foreign import json_text
from .._base.units import format_bytes, format_mib
from .._devices import Gpu
from .._devices.detect import Asked, Seen, User
from .._engines.doctor import Diagnosis
from .look import PLAIN, Look
from .tables import render_facts, render_table

if TYPE_CHECKING:
    from .schema import DoctorJson, FoundGpuJson

__all__ = ["doctor_as_schema", "doctor_json", "doctor_text"]

HOLDERS = 4  # programs that a line names
WIDTH = 16


def doctor_text(diagnosis: Diagnosis, look: Look = PLAIN) -> str:
    """Show the cards, then host and engines, then each source that was asked, then what to do."""
    found = diagnosis.found
    parts = [_cards(diagnosis, look), _holders(found.seen, look)]
    parts.append(render_facts([("host memory", _host(diagnosis)), *_engines(diagnosis)], look, WIDTH))
    parts.append(_section("Asked", [(a.source, _answer(a)) for a in found.asked], look))
    parts += [look.paragraph(f"Note: {note}") for note in found.notes]
    parts.append("\n".join(look.paragraph(f"→ {advice}", "warn", indent=2) for advice in diagnosis.advice))
    return "\n\n".join(filter(None, parts))


def _cards(diagnosis: Diagnosis, look: Look) -> str:
    found = diagnosis.found
    if not found.gpus:
        return look.paragraph("No card was found.", "bad")
    rows = [
        [gpu.name, gpu.id or "", gpu.backend, gpu.compute_capability or "", format_mib(gpu.total_bytes),
         format_mib(gpu.free) + ("" if gpu.free_measured else " (assumed)"), seen.bus]
        for gpu, seen in zip(found.gpus, found.seen, strict=True)
    ]  # fmt: skip
    head = ["card", "id", "backend", "cc", "MiB", "free MiB", "bus"]
    return render_table(head, rows, left=4, last_left=True, look=look, drop=("bus", "cc", "id"))


def _holders(seen: tuple[Seen, ...], look: Look) -> str:
    """Who holds memory of which card."""
    facts = [
        (card.name, ", ".join(f"{u.name} {format_bytes(u.n_bytes)}" if u.n_bytes else u.name for u in _most(card)[:HOLDERS])
         + (f" and {len(card.users) - HOLDERS} more" if len(card.users) > HOLDERS else ""))
        for card in seen
        if card.users
    ]  # fmt: skip
    return _section("In use by", facts, look) if facts else ""


def _most(card: Seen) -> list[User]:
    """Who holds memory of a card, most first."""
    return sorted(card.users, key=lambda user: -(user.n_bytes or 0))


def _host(diagnosis: Diagnosis) -> str:
    host = diagnosis.host
    if host is None:
        return "not known"
    limit = " (the limit of a container)" if host.limited else ""
    return f"{format_bytes(host.total_bytes)}{limit}, {format_bytes(host.available_bytes)} available"


def _engines(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    return [
        (e.program, f"{e.version} → counted as {e.build} ({e.era})" if e.build else f"{e.version} ({e.failure})".strip())
        for e in diagnosis.engines
    ] or [("engines", "none on the path")]  # fmt: skip


def _answer(asked: Asked) -> str:
    if asked.n_cards:
        return "1 card" if asked.n_cards == 1 else f"{asked.n_cards} cards"
    if asked.missing:
        return asked.failure or "no such card"
    return asked.failure or "no card"


def _section(title: str, facts: list[tuple[str, str]], look: Look) -> str:
    shown = render_facts([(f"  {name}", text) for name, text in facts], look, WIDTH)
    return "\n".join((look.paragraph(title, "strong"), shown))


def doctor_json(diagnosis: Diagnosis) -> str:
    """Write what `vramfit doctor --json` prints (docs/reference/json.md)."""
    return json_text(doctor_as_schema(diagnosis).model_dump(mode="json"))


def doctor_as_schema(diagnosis: Diagnosis) -> DoctorJson:
    """Make the pydantic object behind `vramfit doctor --json`."""
    from .schema import AskedJson, DoctorJson, EngineJson, HostMemoryJson

    found, host = diagnosis.found, diagnosis.host
    return DoctorJson(
        platform=diagnosis.platform,
        gpus=[_card(gpu, seen) for gpu, seen in zip(found.gpus, found.seen, strict=True)],
        host=None if host is None else HostMemoryJson(
            total=host.total_bytes, available=host.available_bytes, limited=host.limited
        ),
        engines=[
            EngineJson(program=e.program, version=e.version, build=e.build, era=e.era, failure=e.failure)
            for e in diagnosis.engines
        ],
        asked=[
            AskedJson(source=a.source, cards=a.n_cards, missing=a.missing, failure=a.failure, advice=a.advice)
            for a in found.asked
        ],
        notes=list(found.notes),
        advice=list(diagnosis.advice),
    )  # fmt: skip


def _card(gpu: Gpu, seen: Seen) -> FoundGpuJson:
    from .schema import FoundGpuJson, HolderJson

    return FoundGpuJson(
        id=gpu.id or "", name=gpu.name, backend=gpu.backend, total=gpu.total_bytes, free=gpu.free,
        bandwidth_gbs=gpu.bandwidth_gbs, compute_capability=gpu.compute_capability,
        free_measured=bool(gpu.free_measured), unified=gpu.unified, by_engine=seen.by_engine, bus=seen.bus,
        screen=seen.screen, holders=[HolderJson(name=u.name, n_bytes=u.n_bytes) for u in seen.users],
        note=gpu.assumed,
    )  # fmt: skip
