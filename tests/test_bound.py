"""The bound is never too low, and says that it is one."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, examples
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu, shortened

import vramfit
from vramfit._base.errors import EngineRefusal
from vramfit._devices import Gpu
from vramfit._estimate.bound import compute_bound
from vramfit._estimate.reserve import reserve_at_most, reserve_context
from vramfit._ggml.backends import BACKENDS
from vramfit._llama.cparams import resolve
from vramfit._llama.model import Model
from vramfit._llama.params import Settings
from vramfit._llama.placement import place
from vramfit._sources.load import read

MODELS = [shortened(read(ROOT / "examples" / f"{name}.gguf"), 8) for name in (
    "qwen2.5-14b-instruct-1m-q8_0", "gemma-3-12b-q4_k_m",
)]  # fmt: skip
SETTINGS = st.builds(
    Settings,
    n_ctx=st.sampled_from([512, 4096, 33000]),
    n_ubatch=st.sampled_from([64, 512, 1024]),
    n_seq_max=st.integers(1, 3),
    kv_unified=st.booleans(),
    n_outputs_max=st.sampled_from([0, 1]),
    flash_attn=st.sampled_from(["on", "off", "auto"]),
    type_k=st.sampled_from(["f16", "q8_0"]),
    offload_kqv=st.booleans(),
    op_offload=st.booleans(),
    swa_full=st.booleans(),
    n_gpu_layers=st.sampled_from([0, 1, 4, 99]),
    tensor_split=st.sampled_from([(), (1, 1), (7, 2)]),
)


def questions(model: Model, n_cards: int, settings: Settings) -> tuple[Any, ...]:
    """A placed model, its context and the rules, as the replays take them."""
    placement = place(model, [gpu()] * n_cards, settings)
    return model, placement, resolve(model, settings), [BACKENDS["cuda"]] * placement.n_devices


@examples(20)
@given(st.sampled_from(MODELS), st.integers(1, 2), SETTINGS, st.booleans())
def test_it_is_no_less_than_the_replay(model: Model, n_cards: int, settings: Settings, known: bool) -> None:
    """Whatever the settings, the bound of every buffer is the replayed one or more: of the graph, and of its stand-in."""
    question = questions(model, n_cards, settings)
    exact, most = reserve_context(*question), reserve_at_most(*question, stand_in=not known)
    assert all(a <= b for a, b in zip(exact.needs, most.needs, strict=True))


@examples(5)
@given(st.sampled_from(MODELS), SETTINGS)
def test_one_that_is_asked_for(model: Model, settings: Settings) -> None:
    """It says so, is never called exact, and differs in compute alone."""
    plain = vramfit.estimate(model, [gpu(), gpu()], settings)
    asked = vramfit.estimate(model, [gpu(), gpu()], settings, bound=True)
    assert not asked.exact
    assert asked.compute_note == "a bound was asked for"
    for a, b in zip((*plain.gpus, plain.host), (*asked.gpus, asked.host), strict=True):
        assert (a.model, a.context) == (b.model, b.context)
        assert a.compute <= b.compute


@pytest.mark.parametrize("model", MODELS, ids=["qwen2", "gemma3"])
def test_an_unknown_architecture_is_bounded_near_its_own_graph(model: Model) -> None:
    """Without its builder a model's bound is no less than what that would say, and less than twice as much in all."""
    settings = Settings(n_ctx=16384, flash_attn="on", n_outputs_max=1)
    unheard = replace(model, architecture="unheard-of")
    exact = vramfit.estimate(model, [gpu(), gpu()], settings)
    found = vramfit.estimate(unheard, [gpu(), gpu()], settings, bound=True)
    assert all(a.total <= b.total < 2 * a.total for a, b in zip(exact.gpus, found.gpus, strict=True))


def test_an_assumed_architecture_is_not_exact() -> None:
    """What is planned as another architecture may be wrong, and does not call itself exact."""
    found = vramfit.estimate(replace(MODELS[0], assumed="qwen2"), [gpu()], Settings(n_ctx=512))
    assert not found.exact
    assert "assumed to be qwen2" in found.compute_note


@pytest.mark.parametrize("split", [(9, 1), (3, 2)])
def test_caches_that_are_shared_across_cards_count(truth: Path, split: tuple[int, int]) -> None:
    """Layers that read what a layer of another card has stored have copies of it on their own."""
    model = read(truth / "models/gemma-4-e4b-Q4_K_M.gguf")
    settings = Settings(n_ctx=65536, flash_attn="on", n_outputs_max=1, tensor_split=split)
    question = questions(model, 2, settings)
    exact, sums = reserve_context(*question).needs, compute_bound(*question)
    stand_in = reserve_at_most(*question, stand_in=True).needs
    for most in ((*sums.gpus, sums.host), stand_in):
        assert all(a <= b for a, b in zip(exact, most, strict=True))


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
