"""An estimate is the sum of what its parts say, on the cards that are used."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import F16, dense, gpu

from vramfit._base.errors import EngineRefusal
from vramfit._estimate.estimate import estimate
from vramfit._estimate.limits import check_buffers
from vramfit._ggml.backends import BACKENDS, HOST_BACKEND
from vramfit._llama.cparams import resolve
from vramfit._llama.memory import context_bytes, weight_bytes
from vramfit._llama.model import Tensor
from vramfit._llama.params import Settings
from vramfit._llama.placement import place


@given(st.integers(1, 4), st.integers(-1, 6), st.integers(1, 20_000), st.booleans())
def test_devices_carry_what_was_placed_on_them(n: int, n_gpu_layers: int, n_ctx: int, offload: bool) -> None:
    """Weights, context and layers of an estimate are those of its placement."""
    settings = Settings(n_ctx=n_ctx, n_gpu_layers=n_gpu_layers, offload_kqv=offload)
    found = estimate(dense(), [gpu()] * n, settings)
    rules = [BACKENDS["cuda"]] * n
    weights = weight_bytes(dense(), found.placement, rules, HOST_BACKEND)
    caches = context_bytes(dense(), found.placement, resolve(dense(), settings), rules, HOST_BACKEND)
    assert tuple(g.model for g in found.gpus) == weights.gpus
    assert tuple(g.context for g in found.gpus) == caches.gpus
    assert (found.host.model, found.host.context) == (weights.host, caches.host)
    assert sum(g.layers for g in found.gpus) + found.host.layers == 5
    assert all(g.total == g.model + g.context + g.compute for g in found.gpus)


def test_unused_cards_stay_empty() -> None:
    """With split_mode none only the main card holds anything."""
    found = estimate(
        dense(), [gpu(name="a"), gpu(name="b")], Settings(n_ctx=512, split_mode="none", main_gpu=1)
    )
    assert [g.name for g in found.gpus] == ["a", "b"]
    assert found.gpus[0].total == found.gpus[0].layers == 0
    assert found.gpus[1].layers == 5
    assert found.gpus[0].compute_exact


def test_fits_means_within_what_is_free() -> None:
    """`fits` compares totals with free memory, without a margin."""
    found = estimate(dense(), [gpu()], Settings(n_ctx=512))
    need = found.gpus[0].total
    assert found.fits
    assert found.gpus[0].left == (8192 << 20) - need
    tight = estimate(dense(), [gpu(8192, free_mib=need >> 20)], Settings(n_ctx=512))
    assert not tight.fits
    assert tight.gpus[0].left < 0


def test_a_hand_made_architecture_has_a_bound() -> None:
    """Where there is no graph the figure says so and why."""
    found = estimate(dense(), [gpu()], Settings(n_ctx=512))
    assert not found.exact
    assert found.compute_note


def test_refusals_are_the_engines() -> None:
    """What the engine would not create is not estimated."""
    with pytest.raises(EngineRefusal):
        estimate(dense(), [gpu()], Settings(n_ctx=512, type_v="q4_0", flash_attn="off"))


@pytest.mark.parametrize("backend", ["metal", "sycl"])
def test_a_weight_above_the_largest_buffer_is_refused_with_what_helps(backend: str) -> None:
    """It would be one allocation, which the driver refuses; on the host, or on a card without such a limit, it is none."""
    model = dense(2)
    big = model.weights[1]._replace(tensor=Tensor("blk.0.ffn_up.weight", (1 << 14, 1 << 13), F16))  # 256 MiB
    model = replace(model, weights=(*model.weights, big))
    card = replace(gpu(8000, name="small"), backend=backend, max_buffer_bytes=128 << 20)
    with pytest.raises(
        EngineRefusal, match=r"256 MiB in one buffer of small.*128 MiB.*-ot 'blk.0.ffn_up.weight=CPU'"
    ):
        estimate(model, [card], {"n_ctx": 512})
    check_buffers(model, place(model, [card], Settings(n_gpu_layers=0)), [card])
    for other in (replace(card, max_buffer_bytes=256 << 20), replace(card, backend="vulkan"), gpu(8000)):
        check_buffers(model, place(model, [other], Settings()), [other])
