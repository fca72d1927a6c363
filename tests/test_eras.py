"""Eras of the engine: each switch against the arithmetic of the change that it undoes, and names of builds."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu

from vramfit._base.errors import SettingsError
from vramfit._estimate.compute import OLDER_GRAPH
from vramfit._estimate.estimate import Estimate, estimate
from vramfit._ggml.backends import CUDA, backend
from vramfit._ggml.graph import HOST
from vramfit._llama import eras
from vramfit._llama.cparams import resolve
from vramfit._llama.eras import CHANGES, PINNED, PINNED_BUILD, RELEASES, Era, era_of, rules_of
from vramfit._llama.params import Settings
from vramfit._llama.placement import place

MODEL = replace(dense(), architecture="llama")
SETTINGS = Settings(n_ctx=4096, n_outputs_max=1, flash_attn="on")


def at(
    monkeypatch: pytest.MonkeyPatch, cards: int = 1, settings: Settings = SETTINGS, **switches: Any
) -> Estimate:
    """An estimate in an era that differs from the pinned one in `switches` alone."""
    era = replace(PINNED, **switches)
    monkeypatch.setattr(eras, "PINNED", era)
    eras.era_of.cache_clear()
    try:
        return estimate(MODEL, [gpu()] * cards, settings)
    finally:
        monkeypatch.undo()
        eras.era_of.cache_clear()


def test_the_pinned_build_has_no_switch() -> None:
    """Without a build, and by every name of the pinned one, nothing differs and figures are exact."""
    assert not any(getattr(PINNED, c.switch) for c in CHANGES)
    assert {c.switch for c in CHANGES} == {f.name for f in fields(Era)} - {"title", "why"}
    for name in ("", "0c1e57098", f"b{PINNED_BUILD}", "llama-cpp-python@0.3.36", "0c1e57098f00d"):
        assert era_of(name) is PINNED
    assert estimate(MODEL, [gpu()], SETTINGS).exact


def test_older_builds_keep_logits_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of logits for every token of the physical batch, whatever is asked: as where all are asked for."""
    every = estimate(MODEL, [gpu()], replace(SETTINGS, n_outputs_max=0))
    older = at(monkeypatch, all_logits=True)
    assert older.gpus == every.gpus
    assert older.gpus[0].compute > estimate(MODEL, [gpu()], SETTINGS).gpus[0].compute


def test_older_builds_cast_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under flash attention the host holds the mask in f32, a card that and its f16; without it nothing differs."""
    mask = 4096 * 512  # elements
    today, older = estimate(MODEL, [gpu()], SETTINGS), at(monkeypatch, f32_mask=True)
    assert older.host.compute - today.host.compute == 2 * mask
    assert older.gpus[0].compute - today.gpus[0].compute >= 2 * mask
    off = replace(SETTINGS, flash_attn="off")
    assert at(monkeypatch, settings=off, f32_mask=True).gpus == estimate(MODEL, [gpu()], off).gpus
    two = at(monkeypatch, 2, f32_mask=True)
    assert two.host.compute - estimate(MODEL, [gpu()] * 2, SETTINGS).host.compute >= 4 * 2 * mask


@given(st.integers(0, 6))
def test_ngl_counted_the_output_layer_last(n: int) -> None:
    """As many layers are on the card as today; the output layer is there only when all others are."""
    settings = Settings(n_gpu_layers=n, engine_build="b7000")
    older = place(MODEL, [gpu()], settings)
    today = place(MODEL, [gpu()], replace(settings, engine_build=""))
    assert older.count(0) == today.count(0)
    assert (older.output == HOST) == (n < MODEL.n_layer + 1)
    assert older.layers[:-1] == tuple(HOST if i < MODEL.n_layer - n else 0 for i in range(MODEL.n_layer))


def test_oldest_builds_have_one_cache() -> None:
    """Slots share a cache in builds that know no other, and do not where today they would not."""
    settings = Settings(n_ctx=4096, n_seq_max=4, engine_build="b5000")
    context = resolve(MODEL, settings)
    assert (context.n_stream, context.n_ctx_seq, context.kv_unified) == (1, 4096, True)
    assert resolve(MODEL, replace(settings, engine_build="b8470")).n_ctx_seq == 1024


def test_graphs_of_2024_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not replayed is larger by as much as was seen at most, and says that it is not exact."""
    today, older = estimate(MODEL, [gpu()], SETTINGS), at(monkeypatch, older_graph=True)
    n = today.gpus[0].compute
    assert older.gpus[0].compute == n + n * OLDER_GRAPH // 100
    assert not estimate(MODEL, [gpu()], replace(SETTINGS, engine_build="b5000")).exact


def test_newer_builds_have_more_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of the embedding in f32 for each token of the physical batch, on every device that computes."""
    today, newer = estimate(MODEL, [gpu()], SETTINGS), at(monkeypatch, more_inputs=True)
    assert newer.gpus[0].compute - today.gpus[0].compute == 2 * MODEL.n_embd * 512 * 4
    assert era_of(f"b{PINNED_BUILD + 1}").more_inputs
    assert not era_of(f"b{PINNED_BUILD - 1}").more_inputs


def test_copies_of_a_quantized_cache_were_in_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """K and V of a layer in f16 are in the compute buffer today, and were in none before."""
    quantized = replace(SETTINGS, n_ctx=8192, type_k="q8_0", type_v="q8_0")
    today = estimate(MODEL, [gpu()], quantized)
    older = at(monkeypatch, settings=quantized, pooled_copies=True)
    assert today.gpus[0].compute - older.gpus[0].compute >= 8192 * 128 * 2


def test_older_cuda_keeps_less_alive() -> None:
    """Without both groups there is nothing to ask the backend for; another backend has neither."""
    older = rules_of(gpu(), replace(PINNED, no_sum=True, no_choice=True))
    assert older.graph_optimize is None
    assert older is rules_of(gpu(), era_of("b10000")) or older.scratch
    one = backend("cuda", keeps_choice=False)
    assert one.graph_optimize not in (None, CUDA.graph_optimize)
    assert backend("vulkan", keeps_sum=False) is backend("vulkan")


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.switch)
def test_each_change_spans_its_builds(change: eras.Change) -> None:
    """Builds below lack a change, builds from `sure` on have it, and between the two the larger way counts."""
    before, behind = era_of(f"b{change.first - 1}"), era_of(f"b{max(change.sure, change.first)}")
    assert getattr(before, change.switch) is not change.later
    assert getattr(behind, change.switch) is change.later
    if change.first < change.sure:
        assert getattr(era_of(f"b{change.first}"), change.switch) is (not change.grows)
    assert before.why or change.later


@given(st.integers(100, 99_999))
def test_no_other_build_is_called_exact(build: int) -> None:
    """Only the pinned build was measured; any other says so."""
    assert bool(era_of(f"b{build}").why) == (build != PINNED_BUILD)


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("8470", "b8470"), ("B8470", "b8470"), ("8470 (1a2b3c4)", "b8470"), ("llama-server@b8470", "b8470"),
        ("4227c9be4", "4227c9be4aaaa"), ("llama-cpp-python==0.3.28", "llama-cpp-python@0.3.28"), ("ollama@v0.24.0", "ollama@0.24"),
    ],
)  # fmt: skip
def test_names_of_one_build(name: str, same: str) -> None:
    """However a build is written, its rules are the same."""
    switches = [c.switch for c in CHANGES]
    assert [getattr(era_of(name), s) for s in switches] == [getattr(era_of(same), s) for s in switches]


def test_releases_stand_in_order() -> None:
    """Of each program, versions and builds grow together."""
    for program in eras.PROGRAMS:
        own = [r for r in RELEASES if r.program == program]
        assert [r.version for r in own] == sorted(r.version for r in own)
        assert [r.build for r in own] == sorted(r.build for r in own)


def test_between_two_releases_the_larger_way_counts() -> None:
    """A version that is not in the table is one of two builds: every switch that may be on and is larger is on."""
    between = era_of("llama-cpp-python@0.3.22")  # b8640 to b9553
    assert between.all_logits
    assert between.f32_mask
    assert not between.pooled_copies
    unknown = era_of("deadbeef")
    assert unknown.all_logits
    assert unknown.more_inputs
    assert not unknown.no_sum
    assert "not known" in unknown.why


@pytest.mark.parametrize(
    "bad", ["x y", "ollama@", "ollama@zz", "kobold@1.2", "b", "12", "b8470\x1b[0m" * 9, None, 8470]
)
def test_what_names_no_build_is_refused(bad: Any) -> None:
    """With what to write instead, and nothing foreign reaches a terminal."""
    with pytest.raises(SettingsError, match=r"engine_build=.*b8470") as caught:
        Settings(engine_build=bad)
    assert str(caught.value).isprintable()
