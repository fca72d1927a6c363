"""Tensor types of ggml: how many bytes a row of elements takes.

In: names, ids and element counts. Out: `int` bytes. Never a float, never bits per weight.
Source: `ggml/include/ggml.h` (enum ggml_type) and the block structures of `ggml/src/ggml-common.h`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from .._base.errors import ModelError

__all__ = ["BY_ID", "BY_NAME", "TensorType", "tensor_type"]

_K_QUANTS: Final = frozenset(("q2_K", "q3_K", "q4_K", "q5_K", "q6_K"))


class TensorType(NamedTuple):
    """One storage format: `block` consecutive elements of a row take `block_bytes` bytes."""

    id: int
    name: str
    block: int
    block_bytes: int

    @property
    def is_quantized(self) -> bool:
        """Tell whether several elements share a block (ggml_is_quantized)."""
        return self.block > 1

    @property
    def use(self) -> str:
        """Name what operations tell the type by: "K" for q2_K to q6_K, which are taken together; others by their own name."""
        return "K" if self.name in _K_QUANTS else self.name

    def row_bytes(self, n: int) -> int:
        """Count the bytes of a row of `n` elements (ggml_row_size); `n` must be a multiple of the block."""
        if n % self.block:
            raise ModelError(
                f"a row of {n} {self.name} elements is not a multiple of its block of {self.block}"
            )
        return n // self.block * self.block_bytes


# id, name, elements in a block, bytes of a block. Ids that are absent were removed from ggml.
_TABLE: Final = (
    (0, "f32", 1, 4),
    (1, "f16", 1, 2),
    (2, "q4_0", 32, 18),
    (3, "q4_1", 32, 20),
    (6, "q5_0", 32, 22),
    (7, "q5_1", 32, 24),
    (8, "q8_0", 32, 34),
    (9, "q8_1", 32, 36),
    (10, "q2_K", 256, 84),
    (11, "q3_K", 256, 110),
    (12, "q4_K", 256, 144),
    (13, "q5_K", 256, 176),
    (14, "q6_K", 256, 210),
    (15, "q8_K", 256, 292),
    (16, "iq2_xxs", 256, 66),
    (17, "iq2_xs", 256, 74),
    (18, "iq3_xxs", 256, 98),
    (19, "iq1_s", 256, 50),
    (20, "iq4_nl", 32, 18),
    (21, "iq3_s", 256, 110),
    (22, "iq2_s", 256, 82),
    (23, "iq4_xs", 256, 136),
    (24, "i8", 1, 1),
    (25, "i16", 1, 2),
    (26, "i32", 1, 4),
    (27, "i64", 1, 8),
    (28, "f64", 1, 8),
    (29, "iq1_m", 256, 56),
    (30, "bf16", 1, 2),
    (34, "tq1_0", 256, 54),
    (35, "tq2_0", 256, 66),
    (39, "mxfp4", 32, 17),
    (40, "nvfp4", 64, 36),
    (41, "q1_0", 128, 18),
    (42, "q2_0", 64, 18),
)

BY_ID: Final[dict[int, TensorType]] = {row[0]: TensorType(*row) for row in _TABLE}
BY_NAME: Final[dict[str, TensorType]] = {t.name: t for t in BY_ID.values()}


def tensor_type(name: str) -> TensorType:
    """Find the type called `name`, in any case (`Q4_K` and `q4_K` are one); raises `ModelError` if there is none."""
    for known in (name, name.lower(), name.lower().replace("_k", "_K")):
        if known in BY_NAME:
            return BY_NAME[known]
    raise ModelError(f"unknown tensor type {name!r}; known: {', '.join(BY_NAME)}")
