"""Weights and context: sums that can be done with a pencil, and laws that hold for all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu, with_states

from vramfit._ggml.backends import BACKENDS, HOST_BACKEND
from vramfit._llama.cparams import resolve
from vramfit._llama.memory import context_bytes, weight_bytes
from vramfit._llama.model import Model
from vramfit._llama.params import Settings
from vramfit._llama.placement import place

CUDA = BACKENDS["cuda"]


def context_of(model: Model, settings: Settings, n_gpus: int = 1) -> tuple[int, ...]:
    placement = place(model, [gpu()] * n_gpus, settings)
    found = context_bytes(model, placement, resolve(model, settings), [CUDA] * n_gpus, HOST_BACKEND)
    return (*found.gpus, found.host)


def weights_of(model: Model, settings: Settings, n_gpus: int = 1) -> tuple[int, ...]:
    found = weight_bytes(model, place(model, [gpu()] * n_gpus, settings), [CUDA] * n_gpus, HOST_BACKEND)
    return (*found.gpus, found.host)


def test_a_kv_cache_by_hand() -> None:
    """4 layers x (128 K + 128 V) x 2 bytes x 1024 cells."""
    assert context_of(dense(), Settings(n_ctx=1024)) == (4 * 256 * 2 * 1024, 0)


def test_transposed_v_takes_the_widest_row() -> None:
    """Without flash attention every layer gets the widest V row of the model."""
    model = replace(dense(), v_width_max=500)
    assert context_of(model, Settings(n_ctx=1024, flash_attn="off")) == (4 * (128 + 500) * 2 * 1024, 0)
    assert context_of(model, Settings(n_ctx=1024, flash_attn="on")) == (4 * 256 * 2 * 1024, 0)


def test_states_are_a_copy_for_every_slot() -> None:
    """Recurrent states are f32, do not depend on the context, and each is padded to the alignment."""
    model = with_states(dense(2), 33, 64)
    one = 2 * (256 + 256)  # 132 bytes padded to 256, 256
    assert context_of(model, Settings(n_ctx=512)) == context_of(model, Settings(n_ctx=8192)) == (one, 0)
    assert context_of(model, Settings(n_ctx=512, n_seq_max=4)) == (2 * (640 + 1024), 0)


def test_tied_embeddings_cost_twice_across_devices_and_once_on_one() -> None:
    """The output copy of the token embedding is shared only where the embedding already is."""
    model = dense(1, tied=True)
    embd = 256 * 1024 * 2
    on_gpu, host = weights_of(model, Settings())
    assert host == embd
    assert weights_of(model, Settings(n_gpu_layers=0)) == (0, on_gpu + host - embd)


def test_quantized_rows_are_padded_on_cuda() -> None:
    """A row that is not a multiple of 512 elements adds half a row (272 bytes), padded to 384."""
    model = dense(1, n_embd=256, n_ff=512, weight_type="q8_0")
    plain = sum(w.tensor.n_bytes for w in model.weights[1:])
    padded = sum(1 for w in model.weights[1:] if w.tensor.type.is_quantized and w.tensor.shape[0] == 256)
    assert weights_of(model, Settings())[0] == plain + padded * 384


@given(
    st.integers(1, 40_000),
    st.integers(0, 5000),
    st.integers(1, 16),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_context_never_falls(
    n_ctx: int, more: int, slots: int, unified: bool, swa_full: bool, fa: bool
) -> None:
    """More tokens, more slots of the same context, a full-size window never take less memory.

    At the same total, more slots can take less: padding is by slot (513 tokens are 2 x 512 or 3 x 256).
    """
    model = dense(window=300, swa_layers=2)
    base = Settings(
        n_ctx=n_ctx * slots,
        n_seq_max=slots,
        kv_unified=unified,
        swa_full=swa_full,
        flash_attn="on" if fa else "off",
    )
    size = sum(context_of(model, base))
    assert sum(context_of(model, replace(base, n_ctx=base.n_ctx + more))) >= size
    assert sum(context_of(model, replace(base, n_ctx=n_ctx * (slots + 1), n_seq_max=slots + 1))) >= size
    assert sum(context_of(model, replace(base, swa_full=True))) >= size


@given(
    st.sampled_from(["q4_0", "iq4_nl", "q4_1", "q5_0", "q5_1", "q8_0", "f16", "f32"]), st.integers(1, 20_000)
)
def test_wider_cache_types_take_more(name: str, n_ctx: int) -> None:
    """A cache type with more bits an element never takes less memory."""
    order = ["q4_0", "iq4_nl", "q4_1", "q5_0", "q5_1", "q8_0", "f16", "f32"]
    sizes = [sum(context_of(dense(), Settings(n_ctx=n_ctx, type_k=t, flash_attn="on"))) for t in order]
    assert sizes == sorted(sizes)
    assert sizes[order.index(name)] >= sizes[0]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any))
def test_parts_sum_to_the_whole(split: list[int]) -> None:
    """Splitting layers over cards moves bytes, and neither makes nor loses any (nothing is shared)."""
    settings = Settings(n_ctx=2048, tensor_split=tuple(map(float, split)))
    n = len(split)
    assert sum(context_of(dense(), settings, n)) == sum(context_of(dense(), Settings(n_ctx=2048)))
    assert sum(weights_of(dense(), settings, n)) == sum(weights_of(dense(), Settings()))


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_every_backend_covers_the_tensors(backend: str) -> None:
    """Padding only ever adds."""
    model = dense(weight_type="q4_K", n_embd=256, n_ff=768)
    placement = place(model, [gpu()], Settings())
    found = weight_bytes(model, placement, [BACKENDS[backend]], HOST_BACKEND)
    assert found.total >= model.tensor_bytes
