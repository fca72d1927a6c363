"""Eras of the engine: each switch against the arithmetic of the change that it undoes, and names of builds."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as settings_
from hypothesis import strategies as st
from small import dense, gpu

from vramfit._base.errors import SettingsError
from vramfit._engines.choose import plan_for
from vramfit._engines.installed import parse_version
from vramfit._engines.settings import engine_settings
from vramfit._estimate.compute import OLDER_GRAPH
from vramfit._estimate.context_ranges import NotStraight, Stretch
from vramfit._estimate.estimate import Estimate, estimate
from vramfit._ggml.backends import backend
from vramfit._ggml.backends.cuda import CUDA
from vramfit._ggml.graph import HOST
from vramfit._llama import eras
from vramfit._llama.cparams import cells, more_inputs, resolve
from vramfit._llama.eras import CHANGES, PINNED, PINNED_BUILD, RELEASES, Era, era_of, rules_of
from vramfit._llama.memory import layer_context_bytes
from vramfit._llama.model import Cache, Layer, Model
from vramfit._llama.params import Settings
from vramfit._llama.placement import place
from vramfit._planner.older import older_needs
from vramfit._planner.plan import plan
from vramfit._sources.load import read

MODEL = replace(dense(), architecture="llama")
SETTINGS = Settings(n_ctx=4096, n_outputs_max=1, flash_attn="on")


def at(
    monkeypatch: pytest.MonkeyPatch,
    cards: int = 1,
    settings: Settings = SETTINGS,
    model: Model = MODEL,
    **switches: Any,
) -> Estimate:
    """An estimate in an era that differs from the pinned one in `switches` alone."""
    era = PINNED._replace(**switches)
    monkeypatch.setattr(eras, "PINNED", era)
    eras.era_of.cache_clear()
    try:
        return estimate(model, [gpu()] * cards, settings)
    finally:
        monkeypatch.undo()
        eras.era_of.cache_clear()


def test_the_pinned_build_has_no_switch() -> None:
    """Without a build, and by every name of the pinned one, nothing differs and figures are exact."""
    assert not any(getattr(PINNED, c.switch) for c in CHANGES)
    assert {c.switch for c in CHANGES} == {*Era._fields} - {"title", "why"}
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


def test_cuda_of_2025_is_replayed_and_vulkan_raised() -> None:
    """Printed loads of b5192 to b5622 on CUDA are what is replayed; one on Vulkan of b5781 was more."""
    cuda, vulkan = gpu(), replace(gpu(), backend="vulkan", compute_capability=None)
    older, newer = (replace(SETTINGS, engine_build=build) for build in ("b5700", "b6200"))
    assert estimate(MODEL, [cuda], older).gpus == estimate(MODEL, [cuda], newer).gpus
    n = estimate(MODEL, [vulkan], newer).gpus[0].compute
    assert estimate(MODEL, [vulkan], older).gpus[0].compute == n + n * OLDER_GRAPH // 100


@pytest.mark.parametrize("build", ["b5000", "b99999"])
def test_what_is_raised_is_not_learned_along_contexts(build: str) -> None:
    """A stretch of contexts is replayed, so it refuses builds whose figures are raised; else they would be too low."""
    settings = replace(SETTINGS, engine_build=build)
    placement = place(MODEL, [gpu()], settings)
    with pytest.raises(NotStraight):
        Stretch(
            MODEL,
            placement,
            lambda i: resolve(MODEL, replace(settings, n_ctx=256 * (i + 2))),
            4,
            [rules_of(gpu(), era_of(build))],
        )


@pytest.mark.parametrize(
    ("build", "n_ctx", "mib"), [("b4905", 2048, 9760.0), ("b4905", 512, 2440.0), ("b5150", 2048, 137.25)]
)
def test_latent_attention_was_stored_head_by_head(build: str, n_ctx: int, mib: float) -> None:
    """DeepSeek R1 of build 4905 printed 9760 MiB of cache for 2048 tokens: 128 heads of 192 and 128 in 61 layers."""
    cache = Cache("kv", 576, 0, has_v=False)
    layers = tuple(Layer(i, (cache,), (), 128, 1, 576, 512) for i in range(61))
    hparams = {"attention.key_length_mla": 192, "attention.value_length_mla": 128}
    model = replace(MODEL, is_mla=True, layers=layers, hparams=hparams)
    context = resolve(model, Settings(n_ctx=n_ctx, engine_build=build))
    assert 61 * layer_context_bytes(model, layers[0], context, CUDA) == mib * 2**20


def test_windows_had_caches_of_the_whole_context() -> None:
    """Before May 2025 a layer that sees a window has as many cells as any other."""
    windowed = replace(dense(swa_layers=2, window=512), architecture="llama")
    older, newer = (resolve(windowed, replace(SETTINGS, engine_build=build)) for build in ("b5300", "b5500"))
    cache = windowed.layers[0].caches[0]
    assert (cells(cache, older), cells(cache, newer)) == (4096, 1024)
    assert older.swa_full


def test_newer_builds_have_more_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph's own, for batches of tokens and embeddings; where it is not replayed, two rows for each token behind it."""
    today, newer = estimate(MODEL, [gpu()], SETTINGS), at(monkeypatch, more_inputs=True)
    rows = 2 * MODEL.n_embd * 512 * 4
    more = newer.gpus[0].compute - today.gpus[0].compute
    assert rows // 2 <= more <= rows + 512 * 12
    later = replace(SETTINGS, engine_build="b11549")
    assert more_inputs(MODEL, resolve(MODEL, later)) == 0
    scaled = replace(MODEL, architecture="gemma3")
    assert more_inputs(scaled, resolve(scaled, later)) == rows
    assert more_inputs(scaled, resolve(scaled, SETTINGS)) == 0
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
    older = rules_of(gpu(), PINNED._replace(no_sum=True, no_choice=True))
    assert older.graph_optimize is None
    assert older is rules_of(gpu(), era_of("b10000")) or older.scratch
    one = backend("cuda", keeps_choice=False)
    assert one.graph_optimize not in (None, CUDA.graph_optimize)
    assert backend("vulkan", keeps_sum=False) is backend("vulkan")


def test_older_cuda_keeps_less_of_a_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what the sum of experts keeps, a compute buffer is smaller; without what their choice keeps, never larger."""
    model = read(gzip.decompress((LOGS / "qwen3-30b-a3b.gguf.gz").read_bytes()))
    settings = replace(SETTINGS, n_ctx=32768, type_k="q8_0", type_v="q8_0")
    today = estimate(model, [gpu()], settings).gpus[0].compute
    assert at(monkeypatch, settings=settings, model=model, no_sum=True).gpus[0].compute < today
    assert at(monkeypatch, settings=settings, model=model, no_choice=True).gpus[0].compute <= today


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


LOGS = Path(__file__).parent / "data" / "logs"
LOADS = json.loads((LOGS / "loads.json").read_text())


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load["build"].split("-")[0])
def test_printed_loads(load: dict[str, Any]) -> None:
    """What real builds printed on real cards, in MiB: a device's total within 1 %, and its compute buffer as printed."""
    shape = load["model"]
    if isinstance(shape, str):
        model = read(gzip.decompress((LOGS / f"{shape}.gguf.gz").read_bytes()))
    else:
        model = replace(dense(**shape, weight_type="q8_0"), architecture="llama")
    cards = [gpu(1 << 20, compute_capability=load["capability"]) for _ in load["gpus"]]
    settings = Settings(**load["settings"], engine_build=load["build"])
    found = estimate(model, cards, settings)
    rounded = 1 if isinstance(load["gpus"][0]["model"], int) else 0.011
    for ours, theirs in zip(found.gpus, load["gpus"], strict=True):
        total = (
            theirs["model"] + (ours.context + ours.compute) / 2**20
        )  # of weights only the figure printed is known
        assert total == pytest.approx(sum(theirs.values()), rel=0.01)
        assert ours.context / 2**20 == pytest.approx(theirs["context"], abs=rounded)
        assert ours.compute / 2**20 == pytest.approx(theirs["compute"], abs=rounded)
    assert found.host.compute / 2**20 > load["host"] - rounded
    pinned = estimate(model, cards, replace(settings, engine_build=""))
    same = [a.compute == b.compute for a, b in zip(found.gpus, pinned.gpus, strict=True)]
    assert all(same) == (era_of(load["build"]).all_logits is False)


def test_versions_that_programs_print() -> None:
    """llama.cpp and Ollama say their build each in its way; what says none is none."""
    assert (
        parse_version("llama-server", "x\nversion: 9527 (9c955c48b)\nbuilt with Clang")
        == "llama-server@b9527"
    )
    assert (
        parse_version("ollama", "Warning: could not connect\nclient version is 0.32.15\n") == "ollama@0.32.15"
    )
    assert parse_version("ollama", "ollama version is 0.24.0") == "ollama@0.24.0"
    assert not parse_version("llama-server", "version: unknown")
    assert not parse_version("other", "version: 9527 (9c955c48b)")


def test_an_engine_by_version_has_its_rules() -> None:
    """`ollama@0.24` is Ollama before 0.30 with its build; an older llama-server starts one slot."""
    old = engine_settings("ollama@0.24", n_ctx=4096)
    assert (old.defaults, old.engine_build) == ("ollama-before-0.30", "ollama@0.24")
    assert engine_settings("ollama@0.31", n_ctx=4096).defaults == "ollama"
    assert era_of(engine_settings("ollama-before-0.30").engine_build).f32_mask
    assert engine_settings("llama-server@b6000").n_seq_max == 1
    assert engine_settings("llama-server", engine_build="b8470").n_seq_max == 4
    with pytest.raises(SettingsError, match="lm-studio"):
        engine_settings("lm-studio@0.4")
    found = plan_for(MODEL, [gpu()], {"n_ctx": 4096}, "ollama@0.24")
    assert found.settings.engine_build == "ollama@0.24"


def test_a_plan_says_its_era_and_what_an_older_build_needs() -> None:
    """Without a build the plan names the one it assumes, and the card that lacks most in an older one."""
    settings = replace(SETTINGS, n_outputs_max=1)
    assumed = plan(MODEL, [gpu()], settings)
    older = older_needs(assumed)
    assert older is not None
    before = estimate(MODEL, [gpu()], replace(settings, engine_build="b9000"))
    assert older == (before.gpus[0].name, before.gpus[0].total - assumed.estimate.gpus[0].total)
    assert "(assumed)" in str(assumed)
    assert f"MiB more on {older.card}" in str(assumed)
    assert assumed.to_dict()["older_build"] == {"gpu": older.card, "n_bytes": older.n_bytes}
    assert "(assumed)" in assumed._repr_html_()
    named = plan(MODEL, [gpu()], replace(settings, engine_build="b8470"))
    assert older_needs(named) is None
    assert "b8470: August 2025 to b9451" in str(named)
    assert named.to_dict()["era"] == "b8470: August 2025 to b9451"
    assert named.estimate.to_dict()["era"] == named.to_dict()["era"]


def test_a_plan_says_what_a_pool_takes() -> None:
    """Where an older build converts a quantized cache outside every buffer, a warning gives the size."""
    quantized = replace(SETTINGS, type_k="q8_0", type_v="q8_0", engine_build="b8470")
    said = [w for w in plan(MODEL, [gpu()], quantized).warnings if "outside every buffer" in w]
    assert len(said) == 1
    assert "2 MiB" in said[0]  # 4,096 cells of 128 elements, K and V
    for settings in (replace(quantized, engine_build=""), replace(quantized, type_k="f16", type_v="f16")):
        assert not [w for w in plan(MODEL, [gpu()], settings).warnings if "outside every buffer" in w]


@given(st.integers(0, 5), st.integers(1, 2))
@settings_(max_examples=20, deadline=None)
def test_plans_of_partial_offload_agree_with_their_estimate(n: int, cards: int) -> None:
    """Where the output layer stays on the host, the solver's figures are those of `estimate`."""
    settings = replace(SETTINGS, n_gpu_layers=n, engine_build="b7000")
    found = plan(MODEL, [gpu()] * cards, settings)
    assert found.estimate.gpus == estimate(MODEL, [gpu()] * cards, found.settings).gpus
    assert sum(g.layers for g in found.estimate.gpus) == n
    assert cards == 1 or sum(found.settings.tensor_split) == n
