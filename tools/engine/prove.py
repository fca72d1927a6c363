"""Estimates against the engine on devices of one backend, over random settings: how many figures are equal, and how far others are off.

`prove("hip", headers, n, seed)` draws a header, cards and settings for each row, measures it and compares every figure of every card
and of the host. What is drawn of a card is what differs by card: its architecture, or the limits of its driver.
"""

from __future__ import annotations

import json
import pathlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import vramfit

from .measure import Row, measure_all
from .metadata import Dims
from .sample import CAPABILITIES, GPUS_MIB, draw_settings

__all__ = ["BACKENDS", "Score", "draw", "judge", "prove"]

MIB = 1 << 20
ARCHITECTURES = (
    "gfx803",
    "gfx906",
    "gfx908",
    "gfx90a",
    "gfx90c",
    "gfx942",
    "gfx1030",
    "gfx1100",
    "gfx1151",
    "gfx1201",
)
CARDS = [mib for mib in GPUS_MIB if mib]
_OF_DEVICES = ("compute_capability", "vulkan", "metal", "real_vulkan", "sycl", "alchemist")
_MUCH = 1 << 30  # bytes that a real device may not have
_TERMS = ("model", "context", "compute")


def _cuda(rng: random.Random) -> tuple[Row, Row]:
    capability = rng.choice(CAPABILITIES)
    return {"compute_capability": capability}, {"backend": "cuda", "compute_capability": capability}


def _hip(rng: random.Random) -> tuple[Row, Row]:
    architecture = rng.choice(ARCHITECTURES)
    return {"compute_capability": architecture}, {"backend": "hip", "compute_capability": architecture}


def _vulkan(rng: random.Random) -> tuple[Row, Row]:
    limits = {
        "alignment": rng.choice((4, 16, 64, 256)),
        "host_alignment": rng.choice((64, 4096)),
        "max_tensor": rng.choice((2**32 - 1, 2**32 - 4, 2**31)),
        "fp16": rng.choice((1, 1, 0)),
    }
    card = {"backend": "vulkan", "max_tensor_bytes": limits["max_tensor"], "fp16": bool(limits["fp16"])}
    return {"vulkan": limits}, card | {k: limits[k] for k in ("alignment", "host_alignment")}


def _real_vulkan(rng: random.Random) -> tuple[Row, Row]:
    """Mesa's software device, with the range that `vulkan.build` gives it."""
    card = {"backend": "vulkan", "alignment": 16, "host_alignment": 64, "max_tensor_bytes": 2**32 - 1}
    return {"real_vulkan": True}, card


def _metal(rng: random.Random) -> tuple[Row, Row]:
    return {"metal": 1 << 40}, {"backend": "metal"}


def _sycl(rng: random.Random) -> tuple[Row, Row]:
    largest = rng.choice((1 << 40, 1 << 40, 4 * 2**30 - 8192))
    old = rng.random() < 0.3
    card = {
        "backend": "sycl",
        "max_buffer_bytes": largest,
        "compute_capability": "Xe-HPG" if old else "Xe2-HPG",
    }
    return {"sycl": largest, "alchemist": old}, card


BACKENDS: dict[str, Callable[[random.Random], tuple[Row, Row]]] = {
    "cuda": _cuda,
    "hip": _hip,
    "vulkan": _vulkan,
    "real-vulkan": _real_vulkan,
    "metal": _metal,
    "sycl": _sycl,
}


def draw(backend: str, headers: Sequence[pathlib.Path], n: int, seed: int) -> Iterator[tuple[Row, Row]]:
    """A job of `measure_all` and the fields of its cards, for each of `n` rows."""
    rng = random.Random(f"{backend} {seed}")
    for _ in range(n):
        file = rng.choice(headers)
        of_engine, of_card = BACKENDS[backend](rng)
        cards = [1000000] if backend == "real-vulkan" else rng.choice(CARDS)
        model = vramfit.read(file)
        experts = any("_exps" in w.tensor.name for w in model.weights)
        settings = draw_settings(rng, cards, Dims(n_layer=model.n_layer), experts)
        settings["n_ctx"] = min(
            settings["n_ctx"], 43008
        )  # caches beyond are refused by small drivers, not by rules
        yield {"file": str(file), "gpus_mib": cards, "settings": settings | of_engine}, of_card


@dataclass(slots=True)
class Score:
    """What a comparison counted. `worst` is the largest relative error of a buffer that is not equal, with its sign."""

    counts: Counter[str] = field(default_factory=Counter)
    worst: float = 0.0
    worst_card: float = 0.0

    def text(self, backend: str) -> str:
        """One line for a table."""
        c = self.counts
        return (
            f"{backend}: {c['rows']} loads, {c['equal']} equal in every figure, {c['called exact']} called exact,"
            f" {c['falsely exact']} of them not; buffers {c['buffers']}, equal {c['equal buffers']}, too low {c['low']} on cards"
            f" and {c['low on host']} on the host; worst {self.worst_card:+.2%} on a card, {self.worst:+.2%} at all; refused by both"
            f" {c['refused']}, by one {c['refused by one']}; not allocated {c['not allocated']}"
        )


def judge(job: Row, card: Row, measured: Row, score: Score) -> str:
    """Count one row; a line about it where a figure differs, else ""."""
    settings = {k: v for k, v in job["settings"].items() if k not in _OF_DEVICES}
    gpus = [
        vramfit.Gpu(name=f"card{i}", total_bytes=mib * MIB, **card) for i, mib in enumerate(job["gpus_mib"])
    ]
    refused = "gpus" not in measured
    try:
        found = vramfit.estimate(job["file"], gpus, vramfit.Settings(**settings))
    except vramfit.VramfitError as error:
        score.counts["refused" if refused else "refused by one"] += 1
        return "" if refused else f"refused here alone: {error}"
    if refused:
        score.counts["refused by one"] += 1
        return f"refused by the engine alone: {measured}"
    if (
        "real_vulkan" in job["settings"]
        and found.gpus[0].compute > _MUCH
        and not measured["gpus"][0]["compute"]
    ):
        score.counts["not allocated"] += 1  # a real device found no memory
        return ""
    pairs = [
        (f"card {i}", ours, theirs)
        for i, (ours, theirs) in enumerate(zip(found.gpus, measured["gpus"], strict=True))
    ]
    lines = list(_differences([*pairs, ("host", found.host, measured["host"])], score))
    score.counts["rows"] += 1
    score.counts["equal"] += not lines
    score.counts["called exact"] += found.exact
    score.counts["falsely exact"] += found.exact and bool(lines)
    return f"exact={found.exact} {found.compute_note}: {'; '.join(lines)}" if lines else ""


def _differences(pairs: Sequence[tuple[str, Any, Row]], score: Score) -> Iterator[str]:
    for where, ours, theirs in pairs:
        for term in _TERMS:
            a, b = getattr(ours, term), theirs[term]
            if term == "compute":
                score.counts["buffers"] += 1
                score.counts["equal buffers"] += a == b
            if a == b:
                continue
            if a < b:
                score.counts["low on host" if where == "host" else "low"] += 1
            error = (a - b) / max(b, 1)
            score.worst = max(score.worst, error, key=abs)
            if where != "host":
                score.worst_card = max(score.worst_card, error, key=abs)
            yield f"{where} {term} {a} for {b} ({error:+.2%})"


def prove(
    backend: str, headers: Sequence[pathlib.Path], n: int, seed: int, keep: pathlib.Path | None = None
) -> Iterator[str]:
    """A line for each row that differs, then the score. `keep`: a file that takes the measured rows, as JSON lines."""
    drawn = list(draw(backend, headers, n, seed))
    score = Score()
    with (keep or pathlib.Path("/dev/null")).open("w") as out:
        for (job, card), measured in zip(drawn, measure_all(job for job, _ in drawn), strict=True):
            out.write(json.dumps(job | {"card": card} | measured) + "\n")
            if line := judge(job, card, measured, score):
                yield f"{pathlib.Path(job['file']).name} {job['gpus_mib']} {job['settings']}: {line}"
    yield score.text(backend)
