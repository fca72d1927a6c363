"""The bound is never too low, and says that it is one."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu

from vramfit._base.errors import EngineRefusal
from vramfit._devices import Gpu
from vramfit._estimate.bound import compute_bound
from vramfit._ggml.backends import BACKENDS
from vramfit._llama.cparams import resolve
from vramfit._llama.model import Model
from vramfit._llama.params import Settings
from vramfit._llama.placement import place
from vramfit._sources.load import read


def bound(model: Model, gpus: list[Gpu], settings: Settings) -> tuple[int, ...]:
    placement = place(model, gpus, settings)
    rules = [BACKENDS["cuda"]] * placement.n_devices
    found = compute_bound(model, placement, resolve(model, settings), rules)
    return (*found.gpus, found.host)


@pytest.mark.parametrize("kind", ["arch", "models"])
def test_no_row_exceeds_it(truth: Path, kind: str) -> None:
    """What the engine reserved is within the bound, on every device of 600 rows."""
    with gzip.open(truth / f"rows-{kind}.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    models: dict[str, Model] = {}
    for row in random.Random(7).sample([r for r in rows if "refused" not in r], 600):
        if row["file"] not in models:
            models[row["file"]] = read(truth / row["file"])
        cards = [gpu(mib) for mib in row["gpus_mib"]]
        found = bound(models[row["file"]], cards, Settings(**row["settings"]))
        settings = Settings(**row["settings"])
        used = row["gpus"][:1] if settings.split_mode == "none" else row["gpus"]
        for ours, theirs in zip(found, [*used, row["host"]], strict=True):
            assert ours >= theirs["compute"], (row["file"], row["settings"])


@given(st.integers(256, 60_000), st.integers(0, 5000), st.sampled_from([32, 64, 512, 1024]), st.booleans())
def test_it_never_falls(n_ctx: int, more: int, n_ubatch: int, flash: bool) -> None:
    """More context, a larger batch and more kept outputs never lower it."""
    base = Settings(n_ctx=n_ctx, n_ubatch=n_ubatch, flash_attn="on" if flash else "off", n_outputs_max=1)
    size = bound(dense(), [gpu()], base)
    changes: tuple[dict[str, Any], ...] = (
        {"n_ctx": n_ctx + more},
        {"n_ubatch": n_ubatch * 2},
        {"n_outputs_max": 64},
    )
    for larger in changes:
        assert all(
            a <= b for a, b in zip(size, bound(dense(), [gpu()], replace(base, **larger)), strict=True)
        )


def test_auto_covers_both_answers() -> None:
    """While flash attention is undecided the bound holds for on and for off."""
    on, off, auto = (
        bound(dense(), [gpu()], Settings(n_ctx=8192, flash_attn=f)) for f in ("on", "off", "auto")
    )
    assert all(z >= max(x, y) for x, y, z in zip(on, off, auto, strict=True))


def test_scores_count_for_the_heads_of_an_indexer() -> None:
    """An indexer with more heads than attention keeps more scores; one with fewer changes nothing."""
    off = Settings(n_ctx=8192, flash_attn="off")
    few, same, more = (bound(replace(dense(), n_head_indexer=n), [gpu()], off) for n in (0, 4, 64))
    assert few == same
    assert all(a < b for a, b in zip(same, more, strict=True))


def test_a_card_without_work_needs_nothing() -> None:
    """A card that gets no layer, while nothing is offloaded to it, has no compute buffer."""
    assert bound(dense(), [gpu(), gpu()], Settings(n_ctx=512, tensor_split=(1, 0)))[1] == 0


def test_refusals_come_first() -> None:
    """A context that cannot be created has no bound."""
    with pytest.raises(EngineRefusal):
        bound(dense(), [gpu()], Settings(n_ctx=512, type_v="q8_0", flash_attn="off"))
