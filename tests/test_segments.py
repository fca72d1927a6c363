"""A segment weighs what an estimate of the whole split says of its card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu

from vramfit._estimate.estimate import estimate
from vramfit._llama.model import Model
from vramfit._llama.params import Settings
from vramfit._planner.search import Chains
from vramfit._planner.segments import Learned, Segments
from vramfit._sources.load import read

MODELS = [dense(6), dense(6, tied=True), dense(6, window=700, swa_layers=4)]
REPLAYED = [
    read(ROOT / "examples" / name)
    for name in ("qwen2.5-14b-instruct-1m-q8_0.gguf", "gemma-3-12b-q4_k_m.gguf")
]
SPLITS = st.lists(st.integers(0, 3), min_size=3, max_size=3).filter(any)


def as_split(parts: list[int], layers: int) -> tuple[int, ...]:
    first, second = (layers * sum(parts[:i]) // sum(parts) for i in (1, 2))
    return (first, second - first, layers - second)


@given(st.sampled_from(MODELS), SPLITS, st.integers(1, 40), st.sampled_from([-1, 5]), st.booleans())
def test_learned_totals_are_those_of_an_estimate(model, parts, steps, n_gpu_layers, offload) -> None:  # type: ignore[no-untyped-def]
    """Bytes of every card, learned through segments, equal the estimate of that split."""
    settings = Settings(n_ctx=256 * steps, n_gpu_layers=n_gpu_layers, offload_kqv=offload)
    segments = Segments(model, [gpu()] * 3, settings)
    split = as_split(parts, segments.last - segments.first)
    found = estimate(model, [gpu()] * 3, replace(settings, tensor_split=tuple(map(float, split))))
    assert segments.learn(split, settings.n_ctx) == tuple(g.total for g in found.gpus)


def check_that_splits_agree(segments: Segments, splits: Sequence[tuple[int, ...]], n_ctx: int = 4096) -> None:
    """What was learned of each split is known to the byte when all of them were."""
    found = {split: segments.learn(split, n_ctx) for split in splits}
    for split, totals in found.items():
        assert segments.holds(split, n_ctx, totals)
        for i in range(len(split)):
            assert not segments.holds(split, n_ctx, [n - (i == j) for j, n in enumerate(totals)])


@pytest.mark.parametrize("model", REPLAYED, ids=lambda model: model.architecture)
@pytest.mark.parametrize("tails", [(0, 1), (1, 0)])
def test_equal_segments_take_the_same_in_every_split(model: Model, tails: tuple[int, ...]) -> None:
    """What is known of a card's layers from one split holds in every other, whatever its neighbours have.

    The last card has the output layer alone, or one layer before it too: the card before it then ends with
    the last layer, of which only rows of outputs go on, or before that.
    """
    segments = Segments(model, [gpu()] * 3, Settings(flash_attn="on", n_ubatch=64))
    check_that_splits_agree(segments, [(24 - tail, model.n_layer - 24, tail + 1) for tail in tails])


def test_layers_count_where_copies_pile_up() -> None:
    """Attention that no card has a kernel for: in a pipeline each layer's copies stay, so equal layers add up."""
    settings = Settings(flash_attn="on", n_ubatch=64, type_k="q8_0", type_v="q5_1")
    segments = Segments(REPLAYED[0], [replace(gpu(), backend="metal")] * 2, settings)
    check_that_splits_agree(segments, [(30, 19), (20, 29)])


@pytest.mark.parametrize("model", REPLAYED, ids=lambda model: model.architecture)
def test_cache_types_share_only_what_is_the_same(model: Model) -> None:
    """What is known of a segment from other cache types is what it takes with these."""
    learned: Learned = {}
    asked = Settings(flash_attn="on", n_ubatch=64)
    split = (24, model.n_layer - 23)
    shared, n_ctx = 0, 1 << 16  # where copies of a cache are what takes most
    for pair in (
        ("f16", "f16"),
        ("bf16", "f16"),
        ("f16", "f32"),
        ("q8_0", "q8_0"),
        ("q4_1", "q5_0"),
        ("f16", "q4_0"),
        ("q5_0", "q4_0"),
    ):
        settings = replace(asked, type_k=pair[0], type_v=pair[1])
        alone, sharing = (Segments(model, [gpu()] * 2, settings, x) for x in (None, learned))
        totals = alone.learn(split, n_ctx)
        if sharing.holds(split, n_ctx, [1 << 40] * 2):
            shared += 1
            assert sharing.holds(split, n_ctx, totals)
            assert not sharing.holds(split, n_ctx, [n - 1 for n in totals])
        sharing.learn(split, n_ctx)
    assert shared


def test_lines_are_what_each_context_takes() -> None:
    """Stretches are learned to the byte, from where a window's cache is full; sizes at one context alone are none."""
    contexts = range(256, 1 << 15, 256)
    for model, first in zip(REPLAYED, (512, 1536), strict=True):
        segments, alone = (Segments(model, [gpu()] * 2, Settings(flash_attn="off")) for _ in range(2))
        split = (24, model.n_layer - 23)
        assert not segments.learn_lines(split, contexts, first - 256)
        while not segments.holds(split, first, [1 << 40] * 2):  # each time from further below on
            assert segments.learn_lines(split, contexts, 1 << 14)
        for n_ctx in (first, first + 256, 4096, 1 << 14, contexts[-1]):
            totals = alone.learn(split, n_ctx)
            assert segments.holds(split, n_ctx, totals)
            assert not segments.holds(split, n_ctx, [totals[0] - 1, totals[1]])
            assert not segments.holds(split, n_ctx, [totals[0], totals[1] - 1])
        sizes = [segments.at_least(0, 0, 24, n) for n in contexts[20:60]]
        assert segments.least(0, 0, 24, contexts[20:60]) == min(sizes)
        assert not segments.holds(split, first - 256, [1 << 40] * 2)
        assert segments.least(0, 0, 24, contexts[:60]) == segments.floor(0, 0, 24, contexts[0])


def test_what_is_asked_often_is_learned_along_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A split asked about at many contexts is replayed at a few, and to the byte what replays say at all of them."""
    settings = Settings(flash_attn="on", n_ubatch=64, n_outputs_max=1)
    asked = [256 * n for n in (30, 90, 31, 89, 60, 61, 88, 120, 7)]
    often, split = Segments(REPLAYED[0], [gpu()] * 2, settings), (20, 29)
    replays: list[int] = []
    real = Segments._compute

    def compute(self: Segments, counts: tuple[int, ...], at: int) -> object:
        replays.append(at)
        return real(self, counts, at)

    monkeypatch.setattr(Segments, "_compute", compute)
    found = [often.compute(split, n_ctx) for n_ctx in asked]
    assert len(replays) == 4
    for n_ctx, sizes_found in zip(asked, found, strict=True):
        assert sizes_found == Segments(REPLAYED[0], [gpu()] * 2, settings).compute(split, n_ctx)
        sizes = often.learn(split, n_ctx)
        assert often.holds(split, n_ctx, sizes)


@given(st.sampled_from(MODELS), SPLITS, st.integers(1, 40), st.integers(0, 40), st.booleans())
def test_floors_are_lower_bounds_at_larger_contexts(model, parts, steps, more, attention) -> None:  # type: ignore[no-untyped-def]
    """No segment needs less at a larger context than the bytes that are alive in it at a smaller one."""
    segments = Segments(model, [gpu()] * 3, Settings(flash_attn="on" if attention else "off"))
    split = as_split(parts, segments.last - segments.first)
    segments.learn_floors(split, 256 * steps)
    n_ctx = 256 * (steps + more)
    totals = segments.learn(split, n_ctx)
    start = 0
    for device, count in enumerate(split):
        floor = segments.floor(device, start, start + count, n_ctx)
        assert bool(floor) == bool(count)
        assert floor + segments.fixed(device, start, start + count, n_ctx) <= totals[device]
        start += count


def test_floors_of_a_run_hold_for_longer_ones_alone() -> None:
    """What layers have alive at once, those have too that have them among others; others may have less."""
    model, n_ctx = REPLAYED[1], 1 << 14  # every sixth layer sees all tokens
    settings = Settings(flash_attn="off", n_ubatch=64)
    windows, mixed = (6, 5, 20, 18), (5, 6, 20, 18)  # the second card: layers 6 to 10, or 5 to 10
    known = Segments(model, [gpu()] * 4, settings)
    known.learn_floors(windows, n_ctx)
    assert known.floor(1, 5, 11, n_ctx) == known.floor(1, 6, 11, n_ctx) > 0
    known = Segments(model, [gpu()] * 4, settings)
    known.learn_floors(mixed, n_ctx)
    least = known.floor(1, 6, 11, n_ctx)
    assert least < known.floor(1, 5, 11, n_ctx)
    known.learn(windows, n_ctx)
    assert least <= known.at_least(1, 6, 11, n_ctx) < known.floor(1, 5, 11, n_ctx)


@given(st.sampled_from(MODELS), SPLITS, st.integers(1, 40))
def test_what_holds_was_computed(model, parts, steps) -> None:  # type: ignore[no-untyped-def]
    """Only what was learned at the very context is known to fit, and to the byte."""
    segments = Segments(model, [gpu()] * 3, Settings())
    split = as_split(parts, 7)
    n_ctx = 256 * steps
    assert not segments.holds(split, n_ctx, [1 << 40] * 3)
    sizes = segments.learn(split, n_ctx)
    assert segments.holds(split, n_ctx, sizes)
    assert not segments.holds(split, n_ctx, [size - 1 for size in sizes])
    assert not segments.holds(split, n_ctx + 256, [1 << 40] * 3)


def test_guesses_lie_on_the_line() -> None:
    """Between and beyond two known contexts a guess is linear."""
    segments = Segments(dense(6), [gpu()] * 2, Settings())
    assert segments.probably(0, 0, 3, 512) == 0
    for n_ctx in (1024, 4096):
        segments.learn((3, 4), n_ctx)
    low, middle, high = (segments.probably(0, 0, 3, n) for n in (1024, 2560, 4096))
    assert abs((low + high) // 2 - middle) <= 1


def test_a_chain_uses_no_card_beyond_its_room() -> None:
    """Layers go only where they fit; a card without room stays empty; nothing fits nowhere."""
    segments = Segments(dense(6), [gpu()] * 3, Settings())
    nothing = lambda *_: 0  # noqa: E731
    big = 1 << 40
    assert Chains(segments, [big, big, big]).find(nothing, 1024) is not None
    assert Chains(segments, [-1, big, -1]).find(nothing, 1024) == (0, 7, 0)
    assert Chains(segments, [0, 0, 0]).find(nothing, 1024) is None
