"""The least bytes that a token must read, over bandwidth: never below what is possible."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import F16, dense, gpu

from vramfit._devices import Gpu
from vramfit._llama.model import Model, Tensor, Weight
from vramfit._llama.params import Settings
from vramfit._llama.placement import place
from vramfit._planner.speed import active_bytes, decode_limit


def card(gbs: float | None) -> Gpu:
    return replace(gpu(4096), bandwidth_gbs=gbs)


def output_and_layers(model: Model) -> int:
    """Bytes of everything but the table that tokens are looked up in."""
    return model.tensor_bytes - model.tensors[0].n_bytes


def test_every_weight_once() -> None:
    """One card: all weights but the looked-up table, over its bandwidth."""
    model = dense(4)
    placement = place(model, [card(100)], Settings())
    assert active_bytes(model, placement) == (output_and_layers(model), 0)
    assert decode_limit(model, placement, [card(100)]) == pytest.approx(100e9 / output_and_layers(model))


def test_tied_embeddings_are_read_as_the_output() -> None:
    """A tied table is looked up on the host and multiplied on the card: once."""
    model = dense(2, tied=True)
    assert active_bytes(model, place(model, [card(1)], Settings())) == (model.tensor_bytes, 0)


@given(st.lists(st.floats(1, 4000), min_size=1, max_size=4), st.integers(0, 6), st.floats(1, 400))
def test_devices_take_turns(rates: list[float], n_gpu_layers: int, host: float) -> None:
    """Seconds of all devices add up, whatever the split."""
    model = dense(5)
    gpus = [card(rate) for rate in rates]
    placement = place(model, gpus, Settings(n_gpu_layers=n_gpu_layers))
    sizes = active_bytes(model, placement)
    assert sum(sizes) == output_and_layers(model)
    seconds = sum(size / rate / 1e9 for size, rate in zip(sizes, [*rates, host], strict=True))
    assert decode_limit(model, placement, gpus, host) == pytest.approx(1 / seconds)


def test_unknown_bandwidth_is_unknown_speed() -> None:
    """Where a device that is read has no bandwidth there is no figure; a device that is not read may lack it."""
    model = dense(4)
    half = place(model, [card(100)], Settings(n_gpu_layers=2))
    assert decode_limit(model, half, [card(100)]) is None
    assert decode_limit(model, half, [card(100)], 50) is not None
    assert decode_limit(model, place(model, [card(None)], Settings()), [card(None)]) is None
    assert decode_limit(replace(model, has_cache=False), half, [card(100)], 50) is None


def with_experts(n: int, used: int, *, is_nextn: bool = False) -> Model:
    """One layer with a stack of `n` experts of which a token uses `used`, and a shared stack of two chunks."""
    base = dense(1)
    stack = Tensor("blk.0.ffn_up_exps.weight", (256, 512, n), F16)
    chunks = Tensor("blk.0.ffn_up_chexps.weight", (256, 512, 2), F16)
    layer = replace(base.layers[0], n_expert_used=used, is_nextn=is_nextn)
    weights = (*base.weights, Weight(stack, 0), Weight(chunks, 0))
    return replace(base, layers=(layer,), n_expert=n, weights=weights, tensors=(*base.tensors, stack, chunks))


def test_a_stack_of_no_experts_is_not_read() -> None:
    model, one = with_experts(0, 0), 256 * 512 * 2
    base = active_bytes(dense(1), place(dense(1), [card(1)], Settings()))[0]
    assert active_bytes(model, place(model, [card(1)], Settings()))[0] == base + one


def test_only_experts_in_use_are_read() -> None:
    """Of eight experts two: a quarter of the stack; of a stack of chunks at least one."""
    base = output_and_layers(dense(1))
    one = 256 * 512 * 2
    model = with_experts(8, 2)
    assert active_bytes(model, place(model, [card(1)], Settings()))[0] == base + 2 * one + one


def test_what_a_token_does_not_run_is_not_read() -> None:
    """Next-token-prediction layers and encoders are left out."""
    model = with_experts(8, 2, is_nextn=True)
    only_output = (
        sum(w.tensor.n_bytes for w in model.weights if not isinstance(w.home, int)) - model.tensors[0].n_bytes
    )
    assert active_bytes(model, place(model, [card(1)], Settings()))[0] == only_output
    encoder = Weight(Tensor("enc.blk.0.attn_q.weight", (256, 256), F16), 0)
    base = dense(1)
    more = replace(base, weights=(*base.weights, encoder))
    assert active_bytes(more, place(more, [card(1)], Settings()))[0] == output_and_layers(base)
