"""The nouns of a model: what their few properties say."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramfit._base.errors import ModelError
from vramfit._ggml.types import BY_NAME, TensorType
from vramfit._llama.model import Layer, Model, Tensor


def model(*tensors: Tensor, n_layer: int = 2) -> Model:
    layers = tuple(Layer(index=il) for il in range(n_layer))
    return Model("llama", "small", tensors, (), layers, n_ctx_train=64, n_embd=8, n_vocab=4)


@given(
    kind=st.sampled_from(sorted(BY_NAME.values(), key=lambda t: t.id)),
    blocks=st.integers(0, 9),
    rows=st.lists(st.integers(0, 9), max_size=3),
)
def test_a_tensor_takes_whole_blocks(kind: TensorType, blocks: int, rows: list[int]) -> None:
    """Bytes of a tensor are its blocks times the bytes of a block, whatever its shape."""
    tensor = Tensor("t", (blocks * kind.block, *rows), kind)
    assert tensor.n_bytes * kind.block == tensor.n_elements * kind.block_bytes


def test_a_row_that_cuts_a_block_is_an_error() -> None:
    with pytest.raises(ModelError, match="33"):
        _ = Tensor("t", (33, 2), BY_NAME["q8_0"]).n_bytes


def test_a_model_sums_its_tensors() -> None:
    found = model(Tensor("a", (64, 2), BY_NAME["q8_0"]), Tensor("b", (3,), BY_NAME["f32"]), n_layer=5)
    assert (found.n_layer, found.n_params, found.tensor_bytes) == (5, 131, 4 * 34 + 12)


def test_nouns_cannot_be_changed() -> None:
    found = model()
    for field in fields(found):
        with pytest.raises(FrozenInstanceError):
            setattr(found, field.name, None)
