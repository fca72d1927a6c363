"""The layers that Ollama before 0.30 put on each card: by hand, and as laws."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu, mixture

from vramfit._engines.old_layout import MINIMUM, as_settings, assign, graph_bytes, layer_sizes, layout
from vramfit._estimate.estimate import estimate
from vramfit._llama.params import Settings

MIB = 1 << 20
SIZES = st.lists(st.integers(1, 50), min_size=2, max_size=12)
FREE = st.lists(st.integers(0, 200), min_size=1, max_size=4).map(lambda x: sorted(x, reverse=True))


@pytest.mark.parametrize(
    ("layers", "free", "counts"),
    [
        ([10, 10, 10, 10], [100], [4]),
        ([10, 10, 10, 10], [100, 100], [4, 0]),  # one card is enough
        ([10, 10, 10, 10], [30, 30], [2, 2]),  # evenly, where it takes both
        ([10, 10, 10, 10], [30, 10], [3, 1]),
        ([10, 10, 10, 50], [60], [3]),  # the output layer goes first
        ([10, 10, 10, 50], [30], [3]),
        ([10, 10, 10, 10], [25], [2]),
        ([50, 10, 10, 10], [40, 20], [1, 1]),  # from the last layer; the first has no room anywhere
        ([10, 10], [5, 5], [0, 0]),
        ([10, 10], [], []),
    ],
)
def test_by_hand(layers: list[int], free: list[int], counts: list[int]) -> None:
    """Few cards, even shares, last layers first, the output layer dropped before any other."""
    assert assign(layers, free) == counts


@given(SIZES, FREE)
def test_no_card_holds_more_than_it_has(layers: list[int], free: list[int]) -> None:
    """What is placed are the last layers (or those before the output), and each card has room for its own."""
    counts = assign(layers, free)
    placed = sum(counts)
    kept = layers if placed == len(layers) else layers[:-1]
    end = len(kept)
    for room, count in zip(reversed(free), reversed(counts), strict=True):
        assert sum(kept[end - count : end]) <= room
        end -= count
    assert len(counts) == len(free)
    if sum(layers) <= free[0]:
        assert counts == [len(layers), *[0] * (len(free) - 1)]


@given(SIZES, FREE)
def test_equal_layers_that_have_room_are_placed(layers: list[int], free: list[int]) -> None:
    """Of equal layers as many are on the cards as the cards have room for, less the output where not all fit."""
    equal = [layers[0]] * len(layers)
    rooms = sum(n // equal[0] for n in free)
    expected = len(equal) if rooms >= len(equal) else min(rooms, len(equal) - 1)
    assert sum(assign(equal, free)) == expected


def test_a_layout_leaves_what_ollama_keeps_free() -> None:
    """On one card: all layers fit by the estimate, with one layer, the graph and 457 MiB beside; a byte less and not."""
    model, settings = dense(8), Settings(n_ctx=4096, n_batch=512)
    sizes = layer_sizes(model, settings)
    need = sum(sizes) + sizes[0] + graph_bytes(model, settings) + MINIMUM
    enough = replace(gpu(8192), free_bytes=need)
    assert layout(model, [enough], settings).full
    found = layout(model, [replace(enough, free_bytes=need - 1)], settings)
    assert (found.counts, found.output, found.n_host) == ((8,), False, 1)
    assert layout(model, [gpu(100)], settings).counts == (0,)
    none = as_settings(layout(model, [gpu(100)], settings), settings)
    assert estimate(model, [gpu(100)], none).gpus[0].model == 0


def test_a_layout_can_be_loaded_as_it_is() -> None:
    """The settings put as many blocks on each card as the layout says, and the output where it says."""
    model, settings = dense(8), Settings(n_ctx=4096, n_batch=512)
    one = sum(layer_sizes(model, settings)) // 2 + graph_bytes(model, settings) + MINIMUM
    cards = [replace(gpu(8192), free_bytes=one), replace(gpu(8192), free_bytes=one + 4 * MIB)]
    found = layout(model, cards, settings)
    assert 0 < found.n_host < 9
    assert found.counts[1] >= found.counts[0] > 0
    blocks = [w for w in model.weights if w.tensor.name.startswith("blk.7.")]
    loaded = estimate(model, cards, as_settings(found, settings))
    assert sum(g.model for g in loaded.gpus) == sum(found.counts) * sum(w.tensor.n_bytes for w in blocks)
    assert loaded.host.layers == 8 - sum(found.counts)


@pytest.mark.parametrize(
    "architecture", ["llama", "qwen2", "gemma2", "command-r", "phi2", "stablelm", "hand-made"]
)
def test_graphs_grow_with_the_context(architecture: str) -> None:
    """Every formula gives more for a longer context, and none needs more than the model's own numbers."""
    model = replace(dense(), architecture=architecture)
    sizes = [graph_bytes(model, Settings(n_ctx=n, n_batch=512)) for n in (8192, 16384, 131072)]
    assert 0 < sizes[0] < sizes[1] < sizes[2]
    assert graph_bytes(mixture(model), Settings(n_ctx=8192, n_batch=512)) > 0


def test_the_formula_of_qwen2_by_hand() -> None:
    """fs/ggml/ggml.go, case "qwen2": the part of a graph that is offloaded, at 4,096 tokens of 512 a batch."""
    model = replace(dense(n_embd=256, n_head=4, n_vocab=1024), architecture="qwen2")
    expected = 4 * (512 * (1 + 2 * 256 + 4096 * (1 + 4)) + 256 * (1 + 4096))
    assert graph_bytes(model, Settings(n_ctx=4096, n_batch=512)) == expected
