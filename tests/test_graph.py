"""Sizes and strides of the tensors of a graph."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from vramfit._ggml.graph import Tensor, contiguous, n_bytes
from vramfit._ggml.types import BY_NAME

EXTENT = st.integers(0, 5)
EXTENTS = st.tuples(EXTENT, EXTENT, EXTENT, EXTENT)
UNQUANTIZED = st.sampled_from([BY_NAME[n] for n in ("f32", "f16", "i32", "i64")])


@given(UNQUANTIZED, EXTENTS, st.permutations(range(4)))
def test_bytes_reach_to_the_last_element(kind, ne, order) -> None:  # type: ignore[no-untyped-def]
    """A tensor takes the bytes up to the end of its farthest element, in any order of dimensions."""
    nb = contiguous(kind, ne)
    a, b, c, d = order
    shape, strides = ((x[a], x[b], x[c], x[d]) for x in (ne, nb))
    t = Tensor("t", "PERMUTE", kind, shape, strides)
    ends = [
        sum(i * b for i, b in zip(at, t.nb, strict=True)) + kind.block_bytes
        for at in product(*(range(n) for n in t.ne))
    ]
    assert n_bytes(t) == max(ends, default=0)


@given(st.sampled_from(list(BY_NAME.values())), st.integers(1, 4), st.integers(0, 5), st.integers(0, 5))
def test_contiguous_tensors_have_no_gaps(kind, blocks, rows, planes) -> None:  # type: ignore[no-untyped-def]
    """Without gaps a tensor takes one row size for every row."""
    ne = (blocks * kind.block, rows, planes, 1)
    t = Tensor("t", "NONE", kind, ne, contiguous(kind, ne))
    assert n_bytes(t) == kind.row_bytes(ne[0]) * rows * planes == t.nb[3]


def test_quantized_views_count_whole_rows() -> None:
    """A view of some rows of a quantized tensor ends with its last row."""
    kind = BY_NAME["q8_0"]
    nb = contiguous(kind, (64, 10, 1, 1))
    assert n_bytes(Tensor("v", "VIEW", kind, (32, 3, 1, 1), nb)) == 34 + 2 * 68
