"""Every row that was measured with the engine: weights, context and refusals to the byte."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
from small import gpu

from vramfit._base.errors import EngineRefusal
from vramfit._estimate.estimate import estimate
from vramfit._llama.model import Model
from vramfit._llama.params import Settings
from vramfit._sources.load import read


@pytest.mark.parametrize("every", [48, pytest.param(2, marks=pytest.mark.oracle)])
@pytest.mark.parametrize("kind", ["arch", "models", "published", "cc"])
def test_rows(truth: Path, kind: str, every: int) -> None:
    """model, context and n_ctx of every device equal the engine's; refused rows are refused.

    A compute figure that calls itself exact is. One row of `every`; benchmarks/accuracy.py looks at all.
    """
    models: dict[str, Model] = {}
    wrong: Counter[tuple[str, str]] = Counter()
    n = 0
    with gzip.open(truth / f"rows-{kind}.jsonl.gz", "rt") as lines:
        for number, line in enumerate(lines):
            row = json.loads(line)
            if number % every and "refused" not in row:
                continue
            if row["file"] not in models:
                models[row["file"]] = read(truth / row["file"])
            capability = row.get("compute_capability", "8.6")
            cards = [gpu(mib, compute_capability=capability) for mib in row["gpus_mib"]]
            try:
                found = estimate(models[row["file"]], cards, Settings(**row["settings"]))
            except EngineRefusal:
                wrong[row["file"], "refused"] += "refused" not in row
                continue
            wrong[row["file"], "not refused"] += "refused" in row
            if "refused" in row:
                continue
            n += 1
            wrong[row["file"], "n_ctx"] += found.n_ctx != row["n_ctx"]
            for ours, theirs in zip((*found.gpus, found.host), (*row["gpus"], row["host"]), strict=True):
                wrong[row["file"], "model"] += ours.model != theirs["model"]
                wrong[row["file"], "context"] += ours.context != theirs["context"]
                wrong[row["file"], "compute low"] += ours.compute < theirs["compute"]
                if ours.compute_exact:
                    wrong[row["file"], "compute"] += ours.compute != theirs["compute"]
    assert n > 200 / every
    assert not +wrong
