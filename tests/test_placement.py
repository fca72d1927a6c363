"""Layers, weights and caches land where the engine puts them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu

from vramfit._base.errors import GpuError, SettingsError
from vramfit._ggml import graph
from vramfit._ggml.backends import BACKENDS
from vramfit._llama.model import Home
from vramfit._llama.params import Settings
from vramfit._llama.placement import HOST, devices, pipeline_copies, place, place_split, split_is_given


def engine_split(shares: list[float], n: int) -> list[int]:
    """The engine's arithmetic on real float32 values: the device of each of n layers."""
    sums, total = [], np.float32(0)
    for share in shares:
        total = np.float32(total + np.float32(share))
        sums.append(total)
    points = np.array([np.float32(x / total) for x in sums], dtype=np.float32)
    return [
        int(np.searchsorted(points, np.float32(np.float32(i) / np.float32(n)), side="right"))
        for i in range(n)
    ]


@given(st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=8).filter(any), st.integers(1, 200))
def test_layers_split_as_float32_says(shares: list[float], n_layer: int) -> None:
    """Layers go to the first card whose cumulative share exceeds theirs, in float32."""
    model = replace(dense(1), layers=dense(1).layers * n_layer)
    placed = place(model, [gpu()] * len(shares), Settings(tensor_split=tuple(shares)))
    assert list(placed.layers) == engine_split(shares, n_layer + 1)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any))
def test_counts_of_layers_are_a_split(counts: list[int]) -> None:
    """Giving the number of layers of each card as the split puts exactly so many there."""
    model = dense(1)
    model = replace(model, layers=model.layers * (sum(counts) - 1))
    placed = place(model, [gpu()] * len(counts), Settings(tensor_split=tuple(map(float, counts))))
    assert [placed.count(i) for i in range(len(counts))] == counts


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from([(), (r"blk\.0\.",)]),
)
def test_layers_of_each_card_are_placed_as_the_same_shares(
    counts: list[int], on_host: int, offload_kqv: bool, cpu_tensors: tuple[str, ...]
) -> None:
    """Numbers of layers and `tensor_split` with these numbers give one placement, whatever stays on the host."""
    model = dense(1)
    model = replace(model, layers=model.layers * (sum(counts) + on_host - 1))
    gpus = [gpu()] * len(counts)
    settings = Settings(n_gpu_layers=sum(counts), offload_kqv=offload_kqv, cpu_tensors=cpu_tensors)
    shares = replace(settings, tensor_split=tuple(map(float, counts)))
    assert place_split(model, gpus, settings, counts) == place(model, gpus, shares)


def test_shares_of_nothing_are_no_split() -> None:
    """Shares that are all 0 say as little as none: the engine then splits by free memory."""
    assert [split_is_given(Settings(tensor_split=x)) for x in ((), (0.0, 0.0), (0.0, 1.0))] == [
        False,
        False,
        True,
    ]
    gpus = [gpu(8192), gpu(4096)]
    assert place(dense(7), gpus, Settings(tensor_split=(0.0, 0.0))) == place(dense(7), gpus, Settings())


def test_pipeline_parallelism_needs_everything_on_several_cards() -> None:
    """One card, a split by nothing, a layer or the cache on the host, or an override turn it off."""
    model = dense()

    def copies(n: int, **settings: object) -> int:
        placement = place(model, [gpu()] * n, Settings(n_ctx=512, **settings))  # type: ignore[arg-type]
        return pipeline_copies(placement, [BACKENDS["cuda"]] * placement.n_devices)

    assert copies(2) == copies(2, n_gpu_layers=5) == copies(2, tensor_split=(1, 0)) == 4
    off = ({"n_gpu_layers": 4}, {"offload_kqv": False}, {"cpu_tensors": ["x"]}, {"split_mode": "none"})
    assert {copies(1), *(copies(2, **one) for one in off)} == {1}


def test_default_split_follows_free_memory() -> None:
    """Without a split, shares are the free memory of the cards."""
    placed = place(dense(7), [gpu(8192, 6000), gpu(8192, 2000)], Settings())
    assert [placed.count(0), placed.count(1)] == [6, 2]


@given(st.integers(0, 12))
def test_the_last_layers_go_to_the_cards(n_gpu_layers: int) -> None:
    """n_gpu_layers counts from the output layer backwards."""
    placed = place(dense(4), [gpu()], Settings(n_gpu_layers=n_gpu_layers))
    on_gpu = min(n_gpu_layers, 5)
    assert placed.layers == (HOST,) * (5 - on_gpu) + (0,) * on_gpu


def test_input_stays_on_the_host_and_output_follows_the_last_layer() -> None:
    """Token embeddings are read on the host; the output matrix lives with the output layer."""
    model = dense(3)
    placed = place(model, [gpu(), gpu()], Settings(tensor_split=(1, 1)))
    at = {w.tensor.name: d for w, d in zip(model.weights, placed.weights, strict=True)}
    assert at["token_embd.weight"] == HOST
    assert at["output.weight"] == placed.output == 1
    assert at["blk.0.attn_q.weight"] == placed.layers[0] == 0


def test_overrides_keep_tensors_on_the_host_but_not_caches() -> None:
    """A pattern moves the weights that it finds; the cache follows the layer."""
    model = dense(2)
    placed = place(model, [gpu()], Settings(cpu_tensors=(r"ffn_(up|down)",)))
    moved = {w.tensor.name for w, d in zip(model.weights, placed.weights, strict=True) if d == HOST}
    assert moved == {"token_embd.weight"} | {
        f"blk.{i}.ffn_{x}.weight" for i in range(2) for x in ("up", "down")
    }
    assert placed.caches == (0, 0)


def test_cache_stays_on_the_host_without_offload() -> None:
    """offload_kqv=False keeps every cache in host memory."""
    assert place(dense(2), [gpu()], Settings(offload_kqv=False)).caches == (HOST, HOST)


def test_split_mode_none_uses_one_card() -> None:
    """The main card alone is used, and a card that is not there is an error."""
    cards = [gpu(), gpu(), gpu()]
    assert devices(cards, Settings(split_mode="none", main_gpu=2)) == (2,)
    assert devices(cards, Settings(split_mode="none", main_gpu=-1)) == ()
    assert devices(cards, Settings(split_mode="none", main_gpu=0)) == (0,)
    assert devices(cards, Settings()) == (0, 1, 2)
    assert devices([], Settings(split_mode="none", main_gpu=2)) == ()
    with pytest.raises(SettingsError, match="main_gpu=3"):
        devices(cards, Settings(split_mode="none", main_gpu=3))


def test_no_cards_means_host() -> None:
    """Without cards everything is on the host, whatever n_gpu_layers says."""
    placed = place(dense(2), [], Settings())
    assert set(placed.layers) | set(placed.weights) | set(placed.caches) == {HOST}


def test_a_negative_count_means_all_layers() -> None:
    """n_gpu_layers below 0 is every layer, and more than there are is too."""
    for asked in (-1, -2, 5, 6, 99):
        assert place(dense(4), [gpu()], Settings(n_gpu_layers=asked)).layers == (0,) * 5


def test_a_split_of_few_shares_leaves_the_other_cards_empty() -> None:
    """Cards without a share get no layer; shares beyond the cards are passed over."""
    placed = place(dense(7), [gpu()] * 3, Settings(tensor_split=(1.0, 1.0)))
    assert [placed.count(i) for i in range(3)] == [4, 4, 0]
    assert place(dense(7), [gpu()] * 2, Settings(tensor_split=(3.0, 1.0, 4.0))).count(0) == 6
    assert [placed.n_devices, placed.offload_kqv, placed.caches] == [3, True, placed.layers[:-1]]
    assert HOST == graph.HOST == -1  # the last of the sums by device


def test_weights_of_the_input_and_of_the_output() -> None:
    """Of one card the input alone is on the host; without offload the output is there too."""
    model = dense(2, tied=True)
    for n, output in ((0, HOST), (1, 0), (3, 0)):
        placed = place(model, [gpu()], Settings(n_gpu_layers=n))
        on = [d for w, d in zip(model.weights, placed.weights, strict=True) if w.home is Home.OUTPUT]
        assert set(on) == {output} == {placed.output}
        assert not place(model, [gpu()], Settings(offload_kqv=False)).offload_kqv


def test_limits_are_named() -> None:
    """More cards than the engine takes, and cards without memory, are errors a person can act on."""
    assert place(dense(1), [gpu()] * 16, Settings()).n_devices == 16
    with pytest.raises(GpuError, match="at most 16"):
        place(dense(1), [gpu()] * 17, Settings())
    with pytest.raises(GpuError, match="free"):
        place(dense(1), [gpu(8192, 0)], Settings())
