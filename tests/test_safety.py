"""Lengths and overheads in sentences: honest about what the header says and what it does not."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu, mixture

from vramfit._devices import Gpu, parse_gpus, told_apart
from vramfit._engines.choose import plan_for
from vramfit._engines.settings import engine_settings
from vramfit._ggml.backends import backend
from vramfit._llama.cparams import resolve
from vramfit._llama.memory import layer_context_bytes
from vramfit._llama.model import Model, Rope
from vramfit._llama.params import DENSE, EXPERTS, Settings
from vramfit._planner.plan import plan
from vramfit._planner.warnings import (
    Reach,
    context_warnings,
    margin_warning,
    overheads,
    reach,
    rope_sentence,
    swa_sentence,
    wired_sentence,
)

MIB = 1 << 20


def scaled(n_ctx_train: int, scaling: str, factor: float = 1.0, original: int = 0) -> Model:
    return replace(dense(n_ctx_train=n_ctx_train), rope=Rope(scaling, factor, original))


@pytest.mark.parametrize(
    ("model", "expected", "words"),
    [
        (scaled(8192, "none"), Reach(8192, 8192), "Trained for 8,192 tokens; no RoPE scaling."),
        (scaled(163840, "yarn", 40, 4096), Reach(4096, 163840, "YaRN"), "Trained for 4,096 tokens, extended to 163,840"),
        (scaled(32768, "yarn", 4, 32768), Reach(32768, 131072, "YaRN"), "extended to 131,072 by YaRN (factor 4)"),
        (scaled(32768, "yarn", 4), Reach(32768, 131072, "YaRN"), "extended to 131,072"),
        (scaled(131072, "linear", 8), Reach(0, 131072, "linear position interpolation"), "does not say what length"),
        (scaled(131072, "longrope", 32, 4096), Reach(4096, 131072, "LongRoPE factors"), "by LongRoPE"),
        (scaled(16384, "linear", 4, 4096), Reach(4096, 16384, "linear position interpolation"), "by linear"),
        (scaled(0, "none"), Reach(0, 0), "does not say how long"),
    ],
)  # fmt: skip
def test_reach(model: Model, expected: Reach, words: str) -> None:
    """Trained and extended length follow from the header's scaling, and the sentence says both."""
    assert reach(model) == expected
    assert words in rope_sentence(model)


def test_warnings_grow_with_the_overreach() -> None:
    """Nothing up to the extended length, a word beyond it, a strong one past 1.5 times, two past twice."""
    model = dense(n_ctx_train=8192)
    assert context_warnings(model, 8192) == ()
    (mild,) = context_warnings(model, 12288)
    assert "expect worse answers" in mild
    (strong,) = context_warnings(model, 12544)
    assert "degrade badly" in strong
    assert "--rope-scaling yarn --rope-scale 2 --yarn-orig-ctx 8192" in strong
    first, second = context_warnings(model, 20480)
    assert "--rope-scale 3" in first
    assert "more than twice" in second


def test_a_scaled_model_is_measured_by_its_extended_length() -> None:
    """YaRN in the header moves the limit; flags beyond it start from the original length."""
    model = scaled(32768, "yarn", 4, 32768)
    assert context_warnings(model, 131072) == ()
    (said,) = context_warnings(model, 150_016)
    assert "was extended to" in said
    assert "--rope-scale 5 --yarn-orig-ctx 32768" in said


@given(st.integers(1, 100_000))
def test_the_engines_padding_is_no_overreach(n_ctx_train: int) -> None:
    """The trained context itself never warns, although the engine pads it."""
    model = dense(n_ctx_train=n_ctx_train)
    settings = Settings(n_ctx=n_ctx_train)
    assert context_warnings(model, resolve(model, settings).n_ctx_seq) == ()


def test_full_windows_have_a_price() -> None:
    """The sentence names the bytes that --swa-full adds to the caches at this context, on or off."""
    model = dense(n_layer=4, window=512, swa_layers=3, n_ctx_train=32768)
    sizes = [
        sum(layer_context_bytes(model, x, resolve(model, Settings(n_ctx=32768, swa_full=on)), backend("cuda")) for x in model.layers)
        for on in (True, False)
    ]  # fmt: skip
    off = swa_sentence(model, Settings(n_ctx=32768))
    assert "3 of 4 layers see the last 512 tokens" in off
    assert f"would take {(sizes[0] - sizes[1]) / MIB:.3g} MiB more" in off
    assert "takes" in swa_sentence(model, Settings(n_ctx=32768, swa_full=True))
    assert swa_sentence(dense(), Settings(n_ctx=4096)) == ""


def test_what_no_buffer_shows() -> None:
    """Contexts come out of free memory unless it was measured; workspaces come out of the margin."""
    card, measured, unknown = parse_gpus("3090ti,3060:11000MiB,24GiB")
    found = {o.name: o for o in overheads(card)}
    assert found["CUDA context"].n_bytes == card.overhead_bytes > 0
    assert found["CUDA context"].counted
    assert (found["cuBLAS workspace"].n_bytes, found["cuBLAS workspace"].counted) == (4 * MIB, False)
    assert "900 to 1600 MiB" in found["desktop"].why
    assert overheads(measured)[0].n_bytes == 0
    assert (overheads(unknown)[0].n_bytes, overheads(unknown)[0].counted) == (560 * MIB, False)
    assert {o.name: o.n_bytes for o in overheads(parse_gpus("h100")[0])}["cuBLAS workspace"] == 32 * MIB


def test_apples_limit_is_said() -> None:
    """Of unified memory, what macOS keeps from the GPU is a line of its own."""
    (mac,) = parse_gpus("m3-ultra-512gb")
    found = {o.name: o for o in overheads(mac)}
    assert found["wired limit"].n_bytes == (512 << 30) - mac.total_bytes
    assert "384 GiB of the machine's 512 GiB" in found["wired limit"].why
    assert "sudo sysctl iogpu.wired_limit_mb=471860" in found["wired limit"].why
    (raised,) = parse_gpus("m3-ultra-512gb:464GiB")
    assert "464 GiB of the machine's 512 GiB" in wired_sentence(raised)
    assert "sysctl" not in wired_sentence(raised)
    assert not wired_sentence(parse_gpus("4090")[0])
    assert [o.name for o in overheads(Gpu("mac", 1 << 34, backend="metal"))] == ["process"]
    assert overheads(Gpu("host", 1 << 34, backend="cpu"))[0].counted
    assert [o.name for o in overheads(parse_gpus("7900xtx")[0])] == ["HIP context", "desktop"]


def test_a_mac_is_told_what_raises_its_limit_where_that_is_what_is_short() -> None:
    """The command that is shown makes the context fit; where even all of the memory would not do, that is said."""
    model, mac = dense(n_embd=8192, n_ff=1 << 15), parse_gpus("m4-max-36gb")
    roomy = plan(model, mac, max_ctx=1024)
    assert roomy.limited_by == "max_ctx"
    assert not any("wired limit" in w for w in roomy.warnings)
    margin = roomy.estimate.gpus[0].left + (2 << 30)
    (short,) = (w for w in plan(model, mac, max_ctx=1024, margin_bytes=margin).warnings if "limit" in w)
    assert "sudo sysctl iogpu.wired_limit_mb=32768" in short
    told = re.search(r"--gpus (\S+)$", short)
    assert told
    assert plan(model, parse_gpus(told[1]), max_ctx=1024, margin_bytes=margin).fits
    (never,) = (w for w in plan(model, mac, max_ctx=1024, margin_bytes=40 << 30).warnings if "limit" in w)
    assert "would not be enough" in never
    assert "sysctl" not in never


def test_a_margin_below_the_overheads_warns() -> None:
    """A margin that cannot even hold what no buffer shows is said, on the card where it is worst."""
    cards = parse_gpus("3090ti,24GiB")
    named = dict(zip(told_apart(cards), cards, strict=True))
    (said,) = margin_warning(named, 100 * MIB)
    assert "24GiB" in said
    assert margin_warning(named, 1 << 30) == ()
    assert margin_warning({}, 0) == ()
    assert any("outside every buffer" in w for w in plan(dense(), cards, margin_bytes=0).warnings)
    assert not plan(dense(), [gpu()]).warnings


def test_settings_that_do_nothing_are_said() -> None:
    """Patterns that no tensor matches, by the flag that they come from, and a physical batch above the logical one."""
    experts = mixture(dense(), first=2)
    first = tuple(rf"blk\.{i}{EXPERTS}" for i in range(2))

    def said(model: Model, **fields: Any) -> tuple[str, ...]:
        return plan(model, [gpu()], Settings(n_ctx=512, **fields)).warnings

    (few,) = said(experts, cpu_tensors=first)
    assert few.startswith("-ncmoe 2: no tensor")
    assert not said(experts, cpu_tensors=(*first, rf"blk\.2{EXPERTS}", EXPERTS, "attn_q"))
    assert [w.split(":")[0] for w in said(dense(), cpu_tensors=(EXPERTS, *first, "foo", rf"blk\.9{DENSE}"))] == [
        "-cmoe", "-ncmoe 2", "-ot 'foo'", "-ncffn 1",
    ]  # fmt: skip
    assert not said(dense(), n_batch=512, n_ubatch=512)
    assert "takes 512 for both" in said(dense(), n_batch=512, n_ubatch=513)[0]
    clamped = plan(dense(), [gpu()], Settings(n_ctx=512, n_batch=256, n_ubatch=1024))
    assert (clamped.settings.n_ubatch, clamped.estimate.settings.n_ubatch) == (256, 256)


def test_advice_is_in_the_words_of_the_engine() -> None:
    """Flags where there are flags, keywords where there are those, nothing where nothing extends a context."""
    model = dense(n_ctx_train=8192)
    assert "--rope-scaling yarn" in context_warnings(model, 20480)[0]
    assert "rope_freq_scale=1/3, yarn_orig_ctx=8192" in context_warnings(model, 20480, "llama-cpp-python")[0]
    for engine in ("lm-studio", "ollama-before-0.30"):
        mild, strong = context_warnings(model, 9000, engine)[0], context_warnings(model, 20480, engine)[0]
        assert "rope" not in mild + strong
        assert f"{engine} takes no YaRN" in strong
        found = plan_for(model, [gpu()], engine_settings(engine, n_ctx=20480), engine)
        assert strong in found.warnings
        assert "--rope" not in " ".join(found.warnings)


def test_ollama_loads_no_more_than_the_trained_length() -> None:
    """A longer context is cut to it, slot by slot, and said; other engines load what they are told."""
    model = dense(n_ctx_train=8192)
    found = plan_for(model, [gpu()], engine_settings("ollama", n_ctx=40000, n_seq_max=2), "ollama")
    assert found.n_ctx == 2 * 8192
    assert found.warnings[0].startswith("Ollama 0.30 or newer loads 8,192 tokens a slot")
    assert len(found.warnings) == 1
    at = plan_for(model, [gpu()], engine_settings("ollama", n_ctx=16384, n_seq_max=2), "ollama")
    assert (at.n_ctx, at.warnings) == (2 * 8192, ())
    assert plan_for(model, [gpu()], engine_settings(n_ctx=40000), "llama-server").n_ctx > 8192
