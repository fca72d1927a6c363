"""The plan is the optimum: it fits, no larger context does, and better cards never shrink it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from conftest import ROOT, examples
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu

from vramfit._base.errors import SettingsError
from vramfit._devices import Gpu
from vramfit._estimate.estimate import estimate
from vramfit._llama.model import Model
from vramfit._llama.params import Settings
from vramfit._planner.plan import plan
from vramfit._planner.segments import Learned
from vramfit._quant import requantize
from vramfit._sources.load import read

MARGIN = 8 << 20
MODEL = dense(5, n_embd=512, n_ff=1024, n_vocab=4096, n_head=8, n_head_kv=4, n_ctx_train=1 << 17)
SMALL_MODELS = st.sampled_from(
    [MODEL, dense(6, tied=True, n_ctx_train=1 << 16), dense(8, window=1000, swa_layers=5)]
)
CARDS = st.lists(st.integers(100, 1500), min_size=1, max_size=3)
SETTINGS = st.builds(
    Settings,
    flash_attn=st.sampled_from(["on", "off"]),
    type_k=st.sampled_from(["f16", "q8_0"]),
    n_ubatch=st.sampled_from([64, 512]),
    n_outputs_max=st.just(1),
)


def cards(mib: list[int]) -> list[Gpu]:
    return [gpu(n, name=f"card {i}") for i, n in enumerate(mib)]


def splits(layers: int, n: int) -> Iterator[tuple[int, ...]]:
    if n == 1:
        yield (layers,)
        return
    for first in range(layers + 1):
        for rest in splits(layers - first, n - 1):
            yield (first, *rest)


def fits_somehow(model: Model, gpus: list[Gpu], settings: Settings) -> bool:
    """Whether any split of the layers leaves the margin, tried one by one."""
    for split in splits(model.n_layer + 1, len(gpus)):
        result = estimate(model, gpus, replace(settings, tensor_split=tuple(map(float, split))))
        if all(g.left >= MARGIN for g in result.gpus if g.total):
            return True
    return False


@examples(10)
@given(SMALL_MODELS, CARDS, SETTINGS)
def test_the_answer_fits_and_the_next_step_does_not(model: Model, mib: list[int], settings: Settings) -> None:
    """Every split tried by hand agrees: the context fits, 256 tokens more fit under none."""
    gpus = cards(mib)
    found = plan(model, gpus, settings, margin_bytes=MARGIN)
    step = replace(settings, n_ctx=found.n_ctx)
    assert fits_somehow(model, gpus, step) == found.fits
    if found.fits:
        assert all(g.left >= MARGIN for g in found.estimate.gpus if g.total)
        if found.n_ctx < model.n_ctx_train:
            assert not fits_somehow(model, gpus, replace(settings, n_ctx=found.n_ctx + 256))


@given(CARDS, st.integers(0, 2), st.integers(1, 200))
def test_more_memory_never_shrinks_it(mib: list[int], which: int, more: int) -> None:
    """A larger card carries at least the same context."""
    larger = [n + more * (i == which % len(mib)) for i, n in enumerate(mib)]
    settings = Settings(flash_attn="on", n_outputs_max=1)
    before = plan(MODEL, cards(mib), settings, margin_bytes=MARGIN)
    after = plan(MODEL, cards(larger), settings, margin_bytes=MARGIN)
    assert (after.fits, after.n_ctx) >= (before.fits, before.n_ctx)


@given(CARDS)
def test_a_smaller_cache_type_never_shrinks_it(mib: list[int]) -> None:
    """K in q8_0 takes no more than K in f16 does, on kernels that need no copy of it."""
    settings = Settings(flash_attn="off", n_outputs_max=1)
    wide = plan(MODEL, cards(mib), settings, margin_bytes=MARGIN)
    narrow = plan(MODEL, cards(mib), replace(settings, type_k="q8_0"), margin_bytes=MARGIN)
    assert (narrow.fits, narrow.n_ctx) >= (wide.fits, wide.n_ctx)


@given(st.integers(100, 1000), st.integers(100, 1000), SETTINGS)
def test_equal_cards_can_be_permuted(a: int, b: int, settings: Settings) -> None:
    """Swapping two equal cards changes nothing."""
    first = plan(MODEL, cards([a, b, b]), settings, margin_bytes=MARGIN)
    gpus = cards([a, b, b])
    second = plan(MODEL, [gpus[0], gpus[2], gpus[1]], settings, margin_bytes=MARGIN)
    assert (first.n_ctx, first.fits, first.tensor_split) == (second.n_ctx, second.fits, second.tensor_split)


@examples(10)
@given(SMALL_MODELS, st.lists(st.tuples(CARDS, SETTINGS, st.booleans()), min_size=2, max_size=4))
def test_plans_may_share_what_they_learned(
    model: Model, questions: list[tuple[list[int], Settings, bool]]
) -> None:
    """Sharing compute buffers among cards, settings and file types changes no answer."""
    learned: Learned = {}
    for mib, settings, quantized in questions:
        asked = requantize(model, "Q4_0") if quantized else model
        alone = plan(asked, cards(mib), settings, margin_bytes=MARGIN)
        shared = plan(asked, cards(mib), settings, margin_bytes=MARGIN, learned=learned)
        assert (shared.n_ctx, shared.fits) == (alone.n_ctx, alone.fits)
        assert not shared.fits or all(g.left >= MARGIN for g in shared.estimate.gpus if g.total)


def test_trained_context_is_the_limit_unless_told_otherwise() -> None:
    """max_ctx replaces the trained context, both ways; contexts are multiples of 256."""
    model, gpus = dense(n_ctx_train=5000), [gpu(8192)]
    assert plan(model, gpus).n_ctx == 4864
    assert plan(model, gpus).limited_by == "the trained context"
    assert plan(model, gpus, max_ctx=1000).n_ctx == 768
    assert plan(model, gpus, max_ctx=20_000).n_ctx == 19_968
    assert plan(model, gpus, max_ctx=20_000).limited_by == "max_ctx"
    assert plan(model, gpus, max_ctx=20_000).warnings


def test_slots_share_the_context() -> None:
    """With split slots the context is a multiple of 256 a slot, and each may reach the trained length."""
    found = plan(dense(n_ctx_train=2048), [gpu(8192)], Settings(n_seq_max=3))
    assert (found.n_ctx, found.estimate.n_ctx_seq) == (3 * 2048, 2048)


def test_one_context_can_be_asked_about() -> None:
    """n_ctx other than 0 asks about that context: yes with a split, or no with what is missing."""
    yes = plan(MODEL, cards([1200, 1100]), Settings(n_ctx=4096), margin_bytes=MARGIN)
    assert yes.fits
    assert yes.n_ctx == 4096
    assert sum(yes.tensor_split) == 6
    no = plan(MODEL, cards([60, 60]), Settings(n_ctx=100_000), margin_bytes=MARGIN)
    assert not no.fits
    assert no.shortfall > 0
    assert no.shortfall == MARGIN - min(g.left for g in no.estimate.gpus)


def test_the_shortfall_is_shared_as_evenly_as_layers_allow() -> None:
    """When nothing fits, the split shown is one whose worst card lacks least (to a MiB)."""
    no = plan(MODEL, cards([60, 60]), Settings(n_ctx=100_000), margin_bytes=MARGIN)
    worst = []
    for split in splits(6, 2):
        settings = Settings(n_ctx=100_000, tensor_split=tuple(map(float, split)))
        result = estimate(MODEL, cards([60, 60]), settings)
        worst.append(MARGIN - min(g.left for g in result.gpus if g.total))
    assert no.shortfall <= min(worst) + (1 << 20)


def test_a_given_split_is_kept() -> None:
    """A tensor_split of the caller's own is not improved."""
    found = plan(MODEL, cards([1500, 1500]), Settings(tensor_split=(5, 1)), margin_bytes=MARGIN)
    assert found.tensor_split == (5, 1)
    assert found.settings.tensor_split == (5, 1)


def test_no_cards_is_a_plan_for_the_host() -> None:
    """Without cards the trained context is the only limit."""
    found = plan(MODEL, [])
    assert found.fits
    assert found.n_ctx == MODEL.n_ctx_train
    assert found.estimate.host.layers == 6


@pytest.mark.parametrize("bad", [{"margin_bytes": -1}, {"max_ctx": 0}])
def test_bad_limits_are_errors(bad: dict[str, int]) -> None:
    """A negative margin and an empty range are the caller's mistakes."""
    with pytest.raises(SettingsError):
        plan(MODEL, [gpu()], **bad)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="max_ctx"):
        plan(replace(MODEL, n_ctx_train=0), [gpu()])


def test_doubts_about_the_model_are_warnings() -> None:
    """An assumed architecture and tensors that the engine would not load are said."""
    strange = replace(MODEL, assumed="llama", unknown_tensors=("blk.0.extra.weight",))
    said = " ".join(plan(strange, [gpu()]).warnings)
    assert "planned as llama" in said
    assert "blk.0.extra.weight" in said


@pytest.mark.parametrize(
    ("name", "mib", "settings"),
    [
        ("qwen2.5-14b-instruct-1m-q8_0.gguf", (8192, 6144), Settings(flash_attn="off", n_gpu_layers=20, n_outputs_max=1)),
        ("gemma-3-12b-q4_k_m.gguf", (8192, 6144), Settings(flash_attn="off", n_outputs_max=1)),
        ("gemma-3-12b-q4_k_m.gguf", (9216,), Settings(flash_attn="on", type_k="q8_0", type_v="q8_0")),
    ],
)  # fmt: skip
def test_no_larger_context_of_a_real_model_fits(name: str, mib: tuple[int, ...], settings: Settings) -> None:
    """Buffers can fall as the context grows, so every larger context is tried under the splits around the best."""
    model = read(ROOT / "examples" / name)
    gpus = cards(list(mib))
    best = plan(model, gpus, settings, max_ctx=1 << 16)
    assert best.fits
    assert all(g.left >= best.margin_bytes for g in best.estimate.gpus)
    first, *rest = best.tensor_split
    others = [(first + i, rest[0] - i, *rest[1:]) for i in (-1, 0, 1)] if rest else [(first,)]
    for n_ctx in (
        *range(best.n_ctx + 256, best.n_ctx + 6000, 256),
        *range(best.n_ctx + 6144, 1 << 16, 4096),
    ):
        for split in others:
            asked = replace(settings, n_ctx=n_ctx, tensor_split=tuple(map(float, split)))
            assert min(g.left for g in estimate(model, gpus, asked).gpus) < best.margin_bytes


def test_the_limit_is_what_really_limits() -> None:
    """The request, the trained context, max_ctx, or a card by a name that no other has."""
    twins = [gpu(400), gpu(400)]
    asked = plan(MODEL, twins, Settings(n_ctx=1024), margin_bytes=MARGIN)
    assert asked.fits
    assert asked.limited_by == "the context asked for"
    assert plan(dense(), [gpu(8192)] * 2).limited_by == "the trained context"
    assert plan(dense(), [gpu(8192)] * 2, max_ctx=1024).limited_by == "max_ctx"
    full = plan(MODEL, twins, margin_bytes=MARGIN, max_ctx=1 << 20)
    assert full.limited_by in ("card #1", "card #2")
    assert [d.name for d in full.estimate.gpus] == ["card #1", "card #2"]
    short = plan(MODEL, [gpu(20), gpu(20)], Settings(n_ctx=100_000), margin_bytes=MARGIN)
    worst = min(short.estimate.gpus, key=lambda d: d.left)
    assert (short.fits, short.limited_by) == (False, worst.name)
    assert plan(MODEL, [], max_ctx=1024).limited_by == "max_ctx"


def test_a_card_whose_memory_does_not_grow_does_not_limit() -> None:
    """The card that limits is the one that the next context overfills, though another has less left."""
    settings = Settings(tensor_split=(5.0, 1.0), flash_attn="on", n_outputs_max=1)
    wide = dense(5, n_embd=256, n_vocab=1 << 15, n_ctx_train=1 << 20)
    first = plan(wide, [gpu(200), gpu(8192)], settings, margin_bytes=MARGIN)
    assert first.limited_by == "card #1"
    output = first.estimate.gpus[1]
    assert (output.layers, output.context) == (1, 0)
    tight = replace(gpu(8192), free_bytes=output.total + MARGIN + (5 << 19))
    found = plan(wide, [gpu(200), tight], settings, margin_bytes=MARGIN)
    assert found.n_ctx == first.n_ctx
    assert found.estimate.gpus[1].left < found.estimate.gpus[0].left
    assert found.limited_by == "card #1"
