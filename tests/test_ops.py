"""ggml's constructors: the layout of each result, the order of a graph, and what ggml would stop at."""

from __future__ import annotations

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramfit._ggml.graph import NONE, Tensor, contiguous, is_contiguous
from vramfit._ggml.ops import F16, F32, GLU, I32, UNARY, Ops, Unbuildable
from vramfit._ggml.types import BY_NAME

sizes = st.integers(1, 6)
shapes = st.tuples(sizes, sizes, sizes, sizes)


def leaf(g: Ops, *ne: int, type_: str = "f32") -> Tensor:
    return g.tensor(BY_NAME[type_], *ne)


# --- order


def test_what_is_not_expanded_is_not_in_the_graph() -> None:
    g = Ops()
    a = leaf(g, 4)
    used, unused = g.scale(a), g.sqr(a)
    g.expand(used)
    assert g.graph().nodes == [used.index]
    assert unused.index not in g.graph().nodes
    assert g.graph().leafs == [a.index]


def test_sources_come_first_from_left_to_right() -> None:
    """Whatever was made first: order is what `expand` meets, depth first."""
    g = Ops()
    a, b = leaf(g, 4), leaf(g, 4)
    late, early = g.sqr(b), g.scale(a)
    top = g.add(early, late)
    g.expand(top)
    assert g.nodes == [early.index, late.index, top.index]
    assert g.leafs == [a.index, b.index]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=30))
def test_a_node_comes_behind_all_that_it_reads_and_once(picks: list[tuple[int, int]]) -> None:
    g = Ops()
    made = [leaf(g, 4)]
    for a, b in picks:
        made.append(g.add(made[a % len(made)], made[b % len(made)]))
        if a % 3:
            g.expand(made[-1])
    g.expand(made[-1])
    seen: set[int] = set(g.leafs)
    for i in g.nodes:
        assert i not in seen
        assert set(g.tensors[i].src) <= seen
        seen.add(i)


def test_a_cast_reads_itself() -> None:
    g = Ops()
    x = g.expand(g.cast(leaf(g, 4), F16))
    assert x.src[1] == x.index
    assert x.type is F16


# --- layouts


@given(shapes, st.permutations(range(4)))
def test_permuted_twice_the_other_way_is_as_before(ne: tuple[int, int, int, int], axes: list[int]) -> None:
    g = Ops()
    a = leaf(g, *ne)
    back = [axes.index(i) for i in range(4)]
    there = g.permute(a, *axes)
    again = g.permute(there, *back)
    assert (again.ne, again.nb) == (a.ne, a.nb)
    assert there.view == again.view == a.index


@given(shapes)
def test_a_copy_has_no_gaps(ne: tuple[int, int, int, int]) -> None:
    g = Ops()
    x = g.cont(g.transpose(leaf(g, *ne)))
    assert is_contiguous(x)
    assert x.view == NONE
    assert x.ne == (ne[1], ne[0], *ne[2:])


@given(shapes, sizes)
def test_a_view_of_a_view_shares_the_root_and_adds_offsets(ne: tuple[int, int, int, int], at: int) -> None:
    g = Ops()
    a = leaf(g, *ne)
    inner = g.view(a, ne[:2], a.nb[1:2], 4 * at)
    outer = g.view(inner, ne[:1], (), 8)
    assert outer.view == inner.view == a.index
    assert outer.offset == 4 * at + 8
    assert outer.src == (inner.index,)


@given(shapes, sizes)
def test_a_product_has_the_rows_of_both(ne: tuple[int, int, int, int], rows: int) -> None:
    g = Ops()
    product = g.mul_mat(leaf(g, ne[0], rows, ne[2], ne[3], type_="f16"), leaf(g, *ne))
    assert product.ne == (rows, *ne[1:])
    assert product.type is F32
    assert product.nb == contiguous(F32, product.ne)


def test_layouts_of_the_other_operations() -> None:
    g = Ops()
    a, ids = leaf(g, 8, 6, 5), g.tensor(I32, 3, 5)
    assert g.sum_rows(a).ne == (1, 6, 5, 1)
    assert g.argsort(a).type is I32
    assert g.argsort_top_k(a, 2).nb == g.argsort(a).nb
    assert g.get_rows(a, ids).ne == (8, 3, 5, 1)
    assert g.get_rows(g.argsort(a), ids).type is I32
    assert g.concat(a, a, 1).ne == (8, 12, 5, 1)
    assert g.pad(a, 1, 0, 2).ne == (9, 6, 7, 1)
    assert g.glu("swiglu", a).ne == (4, 6, 5, 1)
    assert g.glu("swiglu", a, a).ne == a.ne
    assert g.repeat(a, 8, 12, 5).ne == (8, 12, 5, 1)
    assert g.ssm_conv(leaf(g, 9, 7, 2), leaf(g, 4, 7)).ne == (7, 6, 2, 1)
    assert g.mul_mat_id(leaf(g, 8, 11, 4), leaf(g, 8, 1, 5), ids).ne == (11, 3, 5, 1)


def test_what_writes_elsewhere_is_a_view_of_where_it_writes() -> None:
    g = Ops()
    cache, rows = leaf(g, 8, 100, type_="f16"), leaf(g, 8, 3)
    stored = g.set_rows(cache, rows, g.tensor(BY_NAME["i64"], 3))
    assert (stored.view, stored.ne, stored.type) == (cache.index, cache.ne, cache.type)
    assert stored.src[2] == cache.index
    copied = g.cpy(rows, g.view(cache, (8, 3), cache.nb[1:2]))
    assert (copied.view, copied.type) == (cache.index, F16)


def test_kinds_of_units_are_told_apart() -> None:
    g = Ops()
    a = leaf(g, 4)
    assert {g.unary(kind, a).params for kind in UNARY} == {(i,) for i in range(len(UNARY))}
    assert {g.glu(kind, a).params for kind in GLU} == {(i,) for i in range(len(GLU))}


def test_a_rotation_copies_what_has_gaps_and_looks_at_what_has_none() -> None:
    g = Ops()
    rotation = leaf(g, 4, 4)
    smooth = g.expand(g.hadamard(leaf(g, 8, 3), rotation))
    gappy = leaf(g, 16, 3)
    copied = g.expand(g.hadamard(g.view(gappy, (8, 3), gappy.nb[1:2]), rotation))
    ops = [g.tensors[i].op for i in g.nodes]
    assert ops == ["RESHAPE", "MUL_MAT", "RESHAPE", "VIEW", "CONT", "MUL_MAT", "RESHAPE"]
    assert smooth.ne == copied.ne == (8, 3, 1, 1)
    assert all(g.tensors[i].params == (0, 1) for i in g.nodes if g.tensors[i].op == "MUL_MAT")


# --- what ggml would stop at


@pytest.mark.parametrize(
    "make",
    [
        lambda g: g.mul_mat(leaf(g, 8, 2), leaf(g, 7, 2)),
        lambda g: g.mul_mat(leaf(g, 8, 2, 3), leaf(g, 8, 2, 4)),
        lambda g: g.mul_mat(leaf(g, 8, 2, 0), leaf(g, 8, 2, 4)),
        lambda g: g.mul_mat_id(leaf(g, 8, 2, 3), leaf(g, 7, 1, 2), g.tensor(I32, 1, 2)),
        lambda g: g.add(leaf(g, 8), leaf(g, 3)),
        lambda g: g.reshape(leaf(g, 8), 3, 3),
        lambda g: g.reshape(g.transpose(leaf(g, 8, 2)), 16),
        lambda g: g.cont(leaf(g, 8), 9),
        lambda g: g.cpy(leaf(g, 8), leaf(g, 9)),
        lambda g: g.concat(leaf(g, 8, 2), leaf(g, 7, 2), 1),
        lambda g: g.get_rows(leaf(g, 8, 2, 3), g.tensor(I32, 2)),
        lambda g: g.set_rows(leaf(g, 8, 9), leaf(g, 7, 2), g.tensor(I32, 2)),
        lambda g: g.set_rows(leaf(g, 8, 9), leaf(g, 8, 2), g.tensor(I32, 3)),
        lambda g: g.argsort_top_k(leaf(g, 3), 4),
        lambda g: g.top_k(leaf(g, 3), 4),
        lambda g: g.soft_max(leaf(g, 8, 4), leaf(g, 7, 4)),
        lambda g: g.soft_max(leaf(g, 8, 4), leaf(g, 8, 3)),
        lambda g: g.flash_attn_ext(leaf(g, 8, 4, 6), leaf(g, 7, 9, 2), leaf(g, 8, 9, 2), None),
        lambda g: g.flash_attn_ext(leaf(g, 8, 4, 6), leaf(g, 8, 9, 4), leaf(g, 8, 9, 4), None),
        lambda g: g.flash_attn_ext(leaf(g, 8, 4, 6), leaf(g, 8, 9, 2), leaf(g, 8, 9, 3), None),
        lambda g: g.tensor(F32, -1),
    ],
)
def test_what_ggml_would_stop_at_is_not_built(make: object) -> None:
    with pytest.raises(Unbuildable):
        make(Ops())  # type: ignore[operator]


@given(shapes, shapes)
def test_extents_are_repeated_only_where_they_divide(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    g = Ops()
    if all(m % n == 0 for m, n in zip(a, b, strict=True)):
        assert g.add(leaf(g, *a), leaf(g, *b)).ne == a
    else:
        with pytest.raises(Unbuildable):
            g.add(leaf(g, *a), leaf(g, *b))


@given(shapes)
def test_a_reshape_keeps_the_number_of_elements(ne: tuple[int, ...]) -> None:
    g = Ops()
    assert g.reshape(leaf(g, *ne), prod(ne)).ne == (prod(ne), 1, 1, 1)
