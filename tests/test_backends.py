"""The rules of the backends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nodes import attention, leaf, node, runs

from vramfit._base.errors import GpuError
from vramfit._ggml.backends import BACKENDS, HOST_BACKEND, Backend, backend
from vramfit._ggml.graph import n_bytes
from vramfit._ggml.types import BY_NAME, TensorType

CUDA = BACKENDS["cuda"]
F16, F32, BF16, Q8 = (BY_NAME[n] for n in ("f16", "f32", "bf16", "q8_0"))
ALL = st.sampled_from(list(BACKENDS.values()))
TYPES = st.sampled_from(list(BY_NAME.values()))


def test_names_are_found_in_any_case() -> None:
    """A backend is named in any case; an unknown one is an error that lists the known."""
    assert backend("CUDA") is CUDA
    with pytest.raises(GpuError, match=r"'cude'.*cuda, hip"):
        backend("cude")


@given(ALL, TYPES, st.integers(1, 40), st.integers(1, 9))
def test_weights_take_their_bytes_and_less_than_a_row_more(
    b: Backend, kind: TensorType, blocks: int, rows: int
) -> None:
    """Padding completes the last row of a quantized tensor, and adds nothing to others."""
    ne0 = blocks * kind.block
    extra = b.alloc_bytes(kind, (ne0, rows)) - kind.row_bytes(ne0) * rows
    if kind.block > 1 and b.row_padding and ne0 % b.row_padding:
        assert extra == kind.row_bytes(b.row_padding - ne0 % b.row_padding)
    else:
        assert extra == 0


def test_cuda_pads_to_512_elements() -> None:
    """One row of 896 elements in q8_0 is completed by 128 elements; 1024 is complete."""
    assert CUDA.alloc_bytes(Q8, (896, 2)) == (28 * 2 + 4) * 34
    assert CUDA.alloc_bytes(Q8, (1024, 2)) == 64 * 34
    assert HOST_BACKEND.alloc_bytes(Q8, (896, 2)) == 28 * 2 * 34


def test_other_backends_flash_attention() -> None:
    """Vulkan wants head sizes in eights; Metal wants one type for K and V."""
    assert runs(BACKENDS["vulkan"], attention(136, 72))
    assert not runs(BACKENDS["vulkan"], attention(100, 100))
    assert not runs(BACKENDS["metal"], attention(128, 128, v_type=Q8))
    assert runs(BACKENDS["metal"], attention(128, 128))
    assert runs(HOST_BACKEND, attention(100, 50, v_type=Q8))


@given(ALL, st.sampled_from((64, 128, 256)), st.integers(1, 600), st.sampled_from((F16, F32, Q8)))
def test_scratch_never_shrinks_a_result(b: Backend, head: int, n: int, kind: TensorType) -> None:
    """A flash-attention node takes at least its result."""
    node = attention(head, head, n_tokens=n, k_type=kind, v_type=kind)
    assert b.node_bytes(node) >= n_bytes(node.tensor)


def test_metal_nodes_carry_more() -> None:
    """On Metal, sorting and the choice of experts need room beside the result."""
    metal = BACKENDS["metal"]
    experts = node("MUL_MAT_ID", (1,), [leaf((64, 32, 16)), leaf((64, 1, 512)), leaf((4, 512))])
    assert metal.with_scratch(1000, experts) == 1000 + 4 * 16 * 513 + 8 + 1024
    assert metal.with_scratch(1000, node("ARGSORT", (250,), [leaf((250,))])) == 2000
    assert metal.with_scratch(40, node("TOP_K", (250,), [leaf((250, 2))])) == 4000
    assert metal.with_scratch(1000, node("ADD", (250,), [leaf((250,))])) == 1000


def test_offload_counts_rows() -> None:
    """From 32 rows on an operation moves to its copy of the weight; looking rows up never does."""
    assert CUDA.offload_op("MUL_MAT", (4096, 32, 1, 1))
    assert not CUDA.offload_op("MUL_MAT", (4096, 31, 8, 1))
    assert CUDA.offload_op("MUL_MAT_ID", (4096, 1, 32, 1))
    assert CUDA.offload_op("ADD", (1, 4, 8, 1))
    assert not CUDA.offload_op("GET_ROWS", (1, 4096, 1, 1))
    assert not BACKENDS["metal"].offload_op("ADD", (1, 4096, 1, 1))
    assert not HOST_BACKEND.offload_op("MUL_MAT", (4096, 512, 1, 1))


@pytest.mark.parametrize(
    ("a", "b", "hint", "wanted"),
    [
        (Q8, F32, 0, True),
        (F16, F16, 0, True),
        (F32, BF16, 0, True),
        (F32, F16, 1, True),
        (F32, F16, 0, False),
        (Q8, F16, 0, False),
    ],
)
def test_cpu_multiplies_by_f32(a: TensorType, b: TensorType, hint: int, wanted: bool) -> None:
    """The CPU takes f32 activations, pairs of one type, and what it widens to f32 itself."""
    product = node("MUL_MAT", (32, 4), [leaf((64, 32), a), leaf((64, 4), b)], params=(0, hint))
    assert runs(HOST_BACKEND, product) is wanted


def test_a_head_that_is_no_multiple_of_the_block_is_padded_rounded_down() -> None:
    """A view of one head of a quantized cache: 80 of 512 elements, the rest 432 of 18 bytes for 32."""
    assert BACKENDS["cuda"].padding_bytes(BY_NAME["iq4_nl"], 80) == 432 * 18 // 32
    assert BACKENDS["cuda"].padding_bytes(BY_NAME["iq4_nl"], 512) == 0
