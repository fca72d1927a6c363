"""Measured loads of every backend: a sample of those that `python -m tools.engine prove` compared.

Rows of the real Vulkan backend on Mesa's software device, and of HIP, Vulkan, SYCL and Metal on devices that answer with the
backend's own functions, over plain, windowed, recurrent, hybrid and latent caches.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from vramfit import Gpu, Settings, estimate

ROWS = Path(__file__).parent / "data" / "backend-rows.jsonl.gz"
OF_DEVICES = {"compute_capability", "vulkan", "real_vulkan", "metal", "sycl", "alchemist"}


def rows() -> list[dict[str, Any]]:
    with gzip.open(ROWS, "rt") as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", ["real-vulkan", "vulkan", "hip", "sycl", "metal"])
def test_every_row_comes_out_to_the_byte(truth: Path, name: str) -> None:
    """Weights, context and compute of each card and of the host; all called exact but Metal's, which may take a percent more."""
    n = 0
    for row in rows():
        if row["backend"] != name:
            continue
        cards = [Gpu(f"card{i}", mib << 20, **row["card"]) for i, mib in enumerate(row["gpus_mib"])]
        settings = Settings(**{k: v for k, v in row["settings"].items() if k not in OF_DEVICES})
        found = estimate(truth / row["file"], cards, settings)
        for ours, theirs in zip((*found.gpus, found.host), (*row["gpus"], row["host"]), strict=True):
            made = {k: getattr(ours, k) for k in theirs}
            if name == "metal" and made["compute"] == theirs["compute"] * 101 // 100:
                made["compute"] = theirs["compute"]
            assert made == theirs, (row["file"], row["settings"], ours.name)
        assert found.exact is (name != "metal"), found.compute_note
        assert bool(found.proof) is found.exact
        n += 1
    assert n >= 10


def test_the_sample_holds_all_backends() -> None:
    assert Counter(row["backend"] for row in rows()).keys() == {
        "real-vulkan",
        "vulkan",
        "hip",
        "sycl",
        "metal",
    }
