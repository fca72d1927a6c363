"""The rules of the backends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramfit.backends import BACKENDS, HOST_BACKEND, Attention, Backend, backend
from vramfit.errors import GpuError
from vramfit.ggml import BY_NAME, TensorType

CUDA = BACKENDS["cuda"]
F16, F32, BF16, Q8 = (BY_NAME[n] for n in ("f16", "f32", "bf16", "q8_0"))
ALL = st.sampled_from(list(BACKENDS.values()))
TYPES = st.sampled_from(list(BY_NAME.values()))


def attention(
    k: int, v: int, gqa: int = 1, n_tokens: int = 512, type_: TensorType = F16, v_in_k: bool = False
) -> Attention:
    q, kv = (k, n_tokens, 8 * gqa, 1), (256, 8, 1)
    return Attention(q, (k, *kv), (v, *kv), type_, type_, (256, n_tokens, 1, 1), v_in_k)


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


@pytest.mark.parametrize(
    ("k", "v", "gqa", "runs"),
    [
        (128, 128, 1, True),
        (128, 64, 1, False),
        (100, 100, 1, False),
        (192, 128, 8, True),
        (192, 128, 4, False),
        (192, 192, 8, False),
        (320, 256, 32, True),
        (320, 256, 16, False),
        (512, 512, 1, False),
        (512, 512, 3, True),
        (576, 512, 2, True),
        (576, 576, 2, False),
    ],
)
def test_cuda_flash_attention(k: int, v: int, gqa: int, runs: bool) -> None:
    """CUDA has kernels for these head sizes and groupings only; the CPU has one for all."""
    assert CUDA.runs_attention(attention(k, v, gqa)) is runs
    assert HOST_BACKEND.runs_attention(attention(k, v, gqa))


def test_other_backends_flash_attention() -> None:
    """Vulkan wants head sizes in eights; Metal wants one type for K and V."""
    assert BACKENDS["vulkan"].runs_attention(attention(136, 72))
    assert not BACKENDS["vulkan"].runs_attention(attention(100, 100))
    mixed = Attention((128, 1, 8, 1), (128, 256, 8, 1), (128, 256, 8, 1), F16, Q8)
    assert not BACKENDS["metal"].runs_attention(mixed)
    assert CUDA.runs_attention(mixed)


def test_cuda_scratch_is_an_f16_copy_of_k_and_v() -> None:
    """A cache that is not f16 is copied, from three tokens on; V within K is not copied twice."""
    one = 128 * 256 * 8 * 2
    assert CUDA.attention_bytes(1000, attention(128, 128)) == 1000
    assert CUDA.attention_bytes(1000, attention(128, 128, type_=Q8)) == 1024 + 2 * one
    assert CUDA.attention_bytes(1000, attention(128, 128, type_=Q8, n_tokens=2)) == 1000
    assert CUDA.attention_bytes(1000, attention(128, 128, type_=BF16, v_in_k=True)) == 1024 + one


@given(ALL, st.sampled_from((64, 128, 256)), st.integers(1, 600), st.sampled_from((F16, F32, Q8)))
def test_scratch_never_shrinks_a_result(b: Backend, head: int, n: int, kind: TensorType) -> None:
    """A flash-attention node takes at least its result, and on every GPU of ours at least what CUDA takes
    where the cache must be copied."""
    node = attention(head, head, n_tokens=n, type_=kind)
    assert b.attention_bytes(4 * head * n, node) >= 4 * head * n
    if b.scratch is not None:
        assert b.attention_bytes(4 * head * n, node) >= CUDA.attention_bytes(4 * head * n, node)


def test_metal_nodes_carry_more() -> None:
    """On Metal, sorting and the choice of experts need room beside the result."""
    expand = BACKENDS["metal"].expand
    assert expand is not None
    experts = [(64, 32, 16, 1), (64, 1, 512, 1), (4, 512, 1, 1)]
    assert expand("MUL_MAT_ID", 1000, experts) == 1000 + 4 * 16 * 513 + 8 + 1024
    assert expand("ARGSORT", 1000, [(250, 1, 1, 1)]) == 2000
    assert expand("TOP_K", 40, [(250, 2, 1, 1)]) == 4000
    assert expand("ADD", 1000, [(250, 1, 1, 1)]) == 1000


def test_offload_counts_rows() -> None:
    """From 32 rows on an operation moves to its copy of the weight; looking rows up never does."""
    assert CUDA.offloads("MUL_MAT", (4096, 32, 1, 1))
    assert not CUDA.offloads("MUL_MAT", (4096, 31, 8, 1))
    assert CUDA.offloads("MUL_MAT_ID", (4096, 1, 32, 1))
    assert CUDA.offloads("ADD", (1, 4, 8, 1))
    assert not CUDA.offloads("GET_ROWS", (1, 4096, 1, 1))
    assert not BACKENDS["metal"].offloads("ADD", (1, 4096, 1, 1))
    assert not HOST_BACKEND.offloads("MUL_MAT", (4096, 512, 1, 1))


def test_cpu_multiplies_by_f32() -> None:
    """The CPU takes f32 activations, pairs of one type, and what it widens to f32 itself."""
    assert HOST_BACKEND.runs_mul_mat(Q8, F32, is_hadamard=False)
    assert HOST_BACKEND.runs_mul_mat(F16, F16, is_hadamard=False)
    assert HOST_BACKEND.runs_mul_mat(F32, BF16, is_hadamard=False)
    assert HOST_BACKEND.runs_mul_mat(F32, F16, is_hadamard=True)
    assert not HOST_BACKEND.runs_mul_mat(F32, F16, is_hadamard=False)
    assert not HOST_BACKEND.runs_mul_mat(Q8, F16, is_hadamard=False)
    assert CUDA.runs_mul_mat(Q8, F16, is_hadamard=False)


def test_a_head_that_is_no_multiple_of_the_block_is_padded_rounded_down() -> None:
    """A view of one head of a quantized cache: 80 of 512 elements, the rest 432 of 18 bytes for 32."""
    assert BACKENDS["cuda"].padding_bytes(BY_NAME["iq4_nl"], 80) == 432 * 18 // 32
    assert BACKENDS["cuda"].padding_bytes(BY_NAME["iq4_nl"], 512) == 0
