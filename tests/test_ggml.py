"""Tensor types, held against the `gguf` package's table and against each other."""

from __future__ import annotations

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramfit._base.errors import ModelError
from vramfit._ggml import types as ggml

TYPES = st.sampled_from(sorted(ggml.BY_ID.values(), key=lambda t: t.id))


# `gguf` still counts the two f32 that a block of q8_1 once began with; they are f16 (ggml-common.h,
# block_q8_1). No file holds the type.
STALE_IN_GGUF = {gguf.GGMLQuantizationType.Q8_1: (32, 36)}


@pytest.mark.parametrize("kind", list(gguf.GGMLQuantizationType))
def test_sizes_agree_with_gguf(kind: gguf.GGMLQuantizationType) -> None:
    """Every type that `gguf` knows has the same name, block length and block bytes here."""
    known = ggml.BY_ID[int(kind)]
    assert known.name.lower() == kind.name.lower()
    assert (known.block, known.block_bytes) == STALE_IN_GGUF.get(kind, gguf.GGML_QUANT_SIZES[kind])


@given(TYPES, st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_rows_add_up(kind: ggml.TensorType, a: int, b: int) -> None:
    """Two rows of whole blocks weigh what one row of both does."""
    n, m = a * kind.block, b * kind.block
    assert kind.row_bytes(n) + kind.row_bytes(m) == kind.row_bytes(n + m)
    assert kind.row_bytes(kind.block) == kind.block_bytes


@given(TYPES.filter(lambda t: t.block > 1), st.integers(0, 1 << 40))
def test_a_row_is_whole_blocks(kind: ggml.TensorType, n: int) -> None:
    """A row that ends inside a block is refused."""
    with pytest.raises(
        ModelError, match=f"{kind.name} elements is not a multiple of its block of {kind.block}"
    ):
        kind.row_bytes(n * kind.block + 1)


@given(TYPES, st.sampled_from([str, str.upper, str.lower]))
def test_names_in_any_case(kind: ggml.TensorType, spell: object) -> None:
    """A type is found by its name, however its letters are cased."""
    assert callable(spell)
    assert ggml.tensor_type(spell(kind.name)) is kind


def test_unknown_name() -> None:
    with pytest.raises(ModelError, match="unknown tensor type 'q9_9'; known: f32, "):
        ggml.tensor_type("q9_9")


def test_quantized_is_more_than_one_to_a_block() -> None:
    assert ggml.tensor_type("q4_K").is_quantized
    assert not ggml.tensor_type("bf16").is_quantized
