"""The rules of CUDA: attention kernels, what runs, and what a fused mixture keeps alive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nodes import attention, leaf, node, runs

from vramfit._base.errors import GpuError
from vramfit._ggml.backends import BACKENDS, Backend, Node, backend
from vramfit._ggml.backends.cuda.fattn import Kernel, kernel
from vramfit._ggml.backends.cuda.fusions import graph_optimize
from vramfit._ggml.backends.nouns import SplitGraph
from vramfit._ggml.graph import NONE, OUTPUT, WEIGHT, Tensor, contiguous, n_bytes
from vramfit._ggml.types import BY_NAME, TensorType

ANY = BACKENDS["cuda"]
F16, F32, BF16, Q8, I32 = (BY_NAME[n] for n in ("f16", "f32", "bf16", "q8_0", "i32"))
CACHE_TYPES = [BY_NAME[n] for n in ("f16", "f32", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1")]
CAPABILITIES = ("6.1", "7.0", "7.2", "7.5", "8.6", "8.9", "9.0", "12.0")


# --- attention


@pytest.mark.parametrize(
    ("k", "v", "gqa", "wanted"),
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
def test_head_sizes(k: int, v: int, gqa: int, wanted: bool) -> None:
    """There are kernels for these head sizes and groupings only (fattn.cu:577-620)."""
    assert runs(ANY, attention(k, v, gqa)) is wanted


def test_what_has_no_kernel() -> None:
    """No kernel reads iq4_nl; grouped heads want a mask, no ALiBi and whole tiles of cells; a mask is one for all heads."""
    assert not runs(ANY, attention(128, 128, k_type=BY_NAME["iq4_nl"]))
    assert not runs(ANY, attention(128, 128, v_type=BY_NAME["iq4_nl"]))
    assert runs(ANY, attention(576, 512, 4))
    assert not runs(ANY, attention(576, 512, 4, alibi=True))
    assert not runs(ANY, attention(576, 512, 4, mask=False))
    assert not runs(ANY, attention(576, 512, 4, n_kv=200))
    per_head = attention(128, 128)
    per_head.src[3].ne = (256, 512, 8, 1)
    assert not runs(ANY, per_head)


@pytest.mark.parametrize(
    ("cc", "n_tokens", "types", "gqa", "n_kv", "chosen"),
    [
        (610, 1, (F16, F16), 1, 256, Kernel.VECTOR),
        (610, 1, (F16, F16), 4, 256, Kernel.TILE),
        (610, 2, (Q8, Q8), 4, 256, Kernel.VECTOR),
        (610, 3, (Q8, Q8), 4, 256, Kernel.TILE),
        (610, 2, (Q8, Q8), 4, 100, Kernel.TILE),
        (700, 2, (F16, F16), 1, 256, Kernel.VECTOR),
        (700, 1, (F16, F16), 4, 256, Kernel.TILE),
        (700, 16, (F16, F16), 1, 256, Kernel.TILE),
        (700, 17, (F16, F16), 1, 256, Kernel.TENSOR_CORES),
        (720, 3, (F16, F16), 8, 256, Kernel.TENSOR_CORES),
        (750, 1, (F16, F16), 4, 256, Kernel.TENSOR_CORES),
        (750, 1, (F16, F16), 1, 256, Kernel.VECTOR),
        (860, 1, (Q8, F16), 4, 256, Kernel.VECTOR),
        (860, 2, (Q8, F16), 4, 256, Kernel.TENSOR_CORES),
        (890, 2, (Q8, F16), 4, 256, Kernel.VECTOR),
        (890, 1, (BF16, BF16), 4, 16384, Kernel.VECTOR),
        (890, 1, (BF16, BF16), 8, 4096, Kernel.VECTOR),
        (890, 1, (BF16, BF16), 8, 8192, Kernel.TENSOR_CORES),
        (890, 2, (BF16, BF16), 1, 256, Kernel.TENSOR_CORES),
    ],
)
def test_kernels(
    cc: int, n_tokens: int, types: tuple[TensorType, TensorType], gqa: int, n_kv: int, chosen: Kernel
) -> None:
    """The choice of fattn.cu:541, family by family."""
    found = attention(128, 128, gqa, n_tokens, *types, n_kv=n_kv)
    assert kernel(found.tensor, found.src, cc) is chosen


F16S, Q8S = (F16, F16), (Q8, Q8)


@pytest.mark.parametrize(
    ("cc", "k", "n_tokens", "types", "gqa", "n_kv", "chosen"),
    [
        # no kernel on tensor cores for heads of 40 and 72; vectors are 64, 128 and 256 wide
        (750, 40, 100, F16S, 1, 256, Kernel.TILE),
        (860, 72, 100, F16S, 1, 256, Kernel.TILE),
        (700, 40, 100, F16S, 1, 256, Kernel.TILE),
        (700, 72, 100, F16S, 1, 256, Kernel.TILE),
        (700, 80, 100, F16S, 1, 256, Kernel.TENSOR_CORES),
        (860, 80, 1, F16S, 1, 256, Kernel.TENSOR_CORES),
        (610, 64, 1, F16S, 1, 256, Kernel.VECTOR),
        (610, 96, 1, F16S, 1, 256, Kernel.TILE),
        (610, 192, 1, Q8S, 8, 256, Kernel.TILE),
        (610, 256, 1, F16S, 1, 256, Kernel.VECTOR),
        (610, 512, 1, Q8S, 2, 256, Kernel.TILE),
        # without tensor cores: two tokens of a quantized cache, one of any other where heads stand alone
        (610, 128, 2, (F16, Q8), 1, 256, Kernel.VECTOR),
        (610, 128, 2, (Q8, F16), 1, 256, Kernel.VECTOR),
        (610, 128, 2, F16S, 1, 256, Kernel.TILE),
        # Volta: by the columns of a tile
        (700, 128, 3, F16S, 1, 256, Kernel.TILE),
        (700, 128, 1, F16S, 2, 256, Kernel.VECTOR),
        (700, 128, 1, F16S, 2, 100, Kernel.TILE),
        (700, 128, 2, F16S, 16, 256, Kernel.TILE),
        (700, 128, 3, F16S, 16, 256, Kernel.TENSOR_CORES),
        (700, 128, 8, F16S, 6, 256, Kernel.TILE),
        (700, 128, 9, F16S, 6, 256, Kernel.TENSOR_CORES),
        (700, 192, 1, F16S, 32, 256, Kernel.TILE),
        (700, 192, 2, F16S, 32, 256, Kernel.TENSOR_CORES),
        (700, 320, 1, F16S, 32, 256, Kernel.TENSOR_CORES),
        (700, 576, 1, F16S, 32, 256, Kernel.TILE),
        (700, 576, 2, F16S, 32, 256, Kernel.TENSOR_CORES),
        # Turing and newer
        (750, 128, 1, Q8S, 4, 256, Kernel.VECTOR),
        (750, 128, 2, Q8S, 4, 256, Kernel.TENSOR_CORES),
        (890, 128, 3, Q8S, 4, 256, Kernel.TENSOR_CORES),
        (880, 128, 1, F16S, 4, 256, Kernel.TENSOR_CORES),
        (890, 128, 1, F16S, 4, 8192, Kernel.VECTOR),
        (890, 128, 1, F16S, 5, 8192, Kernel.TENSOR_CORES),
        (890, 128, 1, F16S, 8, 7936, Kernel.VECTOR),
        (890, 256, 1, F16S, 4, 256, Kernel.VECTOR),
        (890, 256, 1, F16S, 8, 256, Kernel.TENSOR_CORES),
        (890, 128, 1, F16S, 1, 100, Kernel.TENSOR_CORES),
    ],
)
def test_kernels_by_width(
    cc: int, k: int, n_tokens: int, types: tuple[TensorType, TensorType], gqa: int, n_kv: int, chosen: Kernel
) -> None:
    """The same choice where the width of a head, the size of a group or the number of cells decides."""
    v = {192: 128, 320: 256, 576: 512}.get(k, k)
    found = attention(k, v, gqa, n_tokens, *types, n_kv=n_kv)
    assert kernel(found.tensor, found.src, cc) is chosen


def test_kernels_where_heads_are_not_grouped() -> None:
    """Without a mask, with ALiBi or with odd strides one token of f16 takes the vector kernel."""
    for alone in (attention(128, 128, 4, 1, mask=False), attention(128, 128, 4, 1, alibi=True)):
        assert kernel(alone.tensor, alone.src, 610) is kernel(alone.tensor, alone.src, 860) is Kernel.VECTOR
    several = attention(128, 128, 4, 1)
    several.src[0].ne = (128, 1, 32, 2)
    assert kernel(several.tensor, several.src, 890) is Kernel.TENSOR_CORES


@pytest.mark.parametrize("kind", [F16, Q8])
@pytest.mark.parametrize("source", range(4))
@pytest.mark.parametrize("behind", range(4))
def test_grouped_heads_want_strides_of_sixteen_bytes(source: int, behind: int, kind: TensorType) -> None:
    """All strides but an element's, of whatever is not quantized."""
    odd = attention(576, 512, 2, k_type=kind, v_type=kind)
    t = odd.src[source]
    t.nb = tuple(n + 8 * (i == behind) for i, n in enumerate(t.nb))  # type: ignore[assignment]
    assert runs(ANY, odd) is (behind == 0 or t.type is Q8)
    sinks = leaf((2,))  # a fifth source, whose strides do not count
    whole = attention(576, 512, 2, k_type=kind, v_type=kind)
    assert runs(ANY, Node(whole.tensor, (*whole.src, sinks)))


def test_head_sizes_one_by_one() -> None:
    """Of all head sizes these alone have a kernel, with V as wide as K or as narrow as its kernel wants."""
    wanted = {40: 40, 64: 64, 72: 72, 80: 80, 96: 96, 112: 112, 128: 128, 256: 256}
    wanted |= {192: 128, 320: 256, 512: 512, 576: 512}
    for k in range(8, 640, 8):
        found = [v for v in range(8, 640, 8) if runs(ANY, attention(k, v, 32))]
        assert found == ([wanted[k]] if k in wanted else [])
    for name, kind in BY_NAME.items():
        taken = name in ("f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
        assert runs(ANY, attention(256, 256, k_type=kind)) is taken
        assert runs(ANY, attention(256, 256, v_type=kind)) is taken


@pytest.mark.parametrize(
    ("k", "v", "copies"),
    [
        ("f32", "f32", "kv"), ("f32", "f16", "k"), ("f16", "f32", "v"), ("f16", "bf16", "v"), ("bf16", "bf16", ""),
        ("f32", "q8_0", "kv"), ("q8_0", "f32", "kv"), ("q4_0", "q4_0", ""), ("q4_0", "q8_0", "kv"),
        ("q5_1", "q5_1", "kv"), ("q4_1", "q4_1", "kv"), ("f16", "f16", ""), ("f16", "q8_0", "v"),
    ],
)  # fmt: skip
def test_what_the_vector_kernel_copies(k: str, v: str, copies: str) -> None:
    """f32, and both of a pair that has no kernel in a default build; f16 never, nor V within K."""
    one = 128 * 256 * 8 * 2
    for v_in_k in (False, True):
        found = attention(128, 128, 1, 1, BY_NAME[k], BY_NAME[v], v_in_k=v_in_k)
        n = len(copies.replace("v", "") if v_in_k else copies)
        assert backend("cuda", "8.6").with_scratch(1000, found) == (1024 + n * one if n else 1000)


def test_what_runs_elsewhere_takes_no_scratch() -> None:
    """Attention that no kernel runs is left to the CPU: its result is all there is to place."""
    assert ANY.with_scratch(1000, attention(100, 100, k_type=Q8, v_type=Q8)) == 1000
    assert ANY.with_scratch(1000, attention(128, 128, k_type=BY_NAME["iq4_nl"])) == 1000


def test_scratch_is_an_f16_copy_of_k_and_v() -> None:
    """What a kernel does not read is copied to f16 behind the result; V within K is not copied twice."""
    ampere = backend("cuda", "8.6")
    one = 128 * 256 * 8 * 2

    def extra(n_tokens: int, k: TensorType, v: TensorType, v_in_k: bool = False) -> int:
        return ampere.with_scratch(1000, attention(128, 128, 4, n_tokens, k_type=k, v_type=v, v_in_k=v_in_k))

    assert extra(512, F16, F16) == 1000
    assert extra(512, Q8, Q8) == 1024 + 2 * one
    assert extra(512, Q8, F16) == 1024 + one
    assert extra(512, BF16, BF16, v_in_k=True) == 1024 + one
    assert extra(1, Q8, Q8) == 1000, "the vector kernel reads it"
    assert extra(1, BY_NAME["q5_0"], BY_NAME["q5_0"]) == 1024 + 2 * one, "no such kernel in a default build"
    assert extra(1, Q8, F16) == 1024 + one, "nor for such a pair"


@given(
    st.sampled_from(CAPABILITIES),
    st.sampled_from(CACHE_TYPES),
    st.sampled_from(CACHE_TYPES),
    st.sampled_from((64, 128, 192, 256, 576)),
    st.sampled_from((1, 4, 8, 16)),
    st.integers(1, 40),
    st.sampled_from((256, 8192, 32768)),
)
def test_a_card_of_no_known_capability_takes_the_largest(
    cc: str, k: TensorType, v: TensorType, head: int, gqa: int, n: int, n_kv: int
) -> None:
    """Without a capability a node takes at least what it takes with any, and is sure where all agree."""
    found = attention(head, {192: 128, 576: 512}.get(head, head), gqa, n, k, v, n_kv)
    size = backend("cuda", cc).node_bytes(found)
    assert ANY.node_bytes(found) >= size >= n_bytes(found.tensor)
    if ANY.is_sure_of(found):
        assert ANY.node_bytes(found) == size
    if k is v is F16:
        assert ANY.is_sure_of(found)


def test_the_largest_is_taken_where_capabilities_differ() -> None:
    """One token of a quantized cache: copied on Volta alone, so a card of no known capability may copy it."""
    found = attention(128, 128, 4, 1, k_type=Q8, v_type=Q8)
    one = 128 * 256 * 8 * 2
    sizes = {cc: backend("cuda", cc).with_scratch(1000, found) for cc in CAPABILITIES}
    assert sizes == {cc: 1024 + 2 * one if cc in ("7.0", "7.2") else 1000 for cc in CAPABILITIES}
    assert ANY.with_scratch(1000, found) == 1024 + 2 * one
    assert not ANY.is_sure_of(found)
    two = attention(128, 128, 4, 2, k_type=Q8, v_type=Q8)
    sizes = {cc: backend("cuda", cc).with_scratch(1000, two) for cc in CAPABILITIES}
    assert [cc for cc in CAPABILITIES if sizes[cc] == 1000] == ["6.1", "8.9", "9.0", "12.0"]


@pytest.mark.parametrize("rules", [ANY, BACKENDS["hip"], backend("cuda", "8.6")])
def test_what_cuda_is(rules: Backend) -> None:
    """Sizes and manners that hold for every card (ggml-cuda.cu:897-916, 5153, 5651), HIP's too."""
    assert (rules.name in ("cuda", "hip"), rules.exact) == (True, True)
    assert (rules.alignment, rules.row_padding, rules.offload_batch, rules.max_buffer) == (128, 512, 32, 0)
    assert (rules.own_memory_only, rules.async_events, rules.host_buffer) == (True, True, True)
    assert rules.graph_optimize is graph_optimize
    assert not rules.offload_ops
    assert not rules.repacked


def test_capabilities_are_asked_for_as_nvidia_writes_them() -> None:
    """One value for each capability; what is none is an error that shows it."""
    assert backend("cuda", "8.6") is backend("cuda", "8.6")
    assert backend("cuda", None) is ANY
    for wrong in ("86", "8.x", ".", "sm_86", "8.6.1", "8.", ".6", "8.600000"):
        with pytest.raises(GpuError, match=r"such as 8\.6"):
            backend("cuda", wrong)


# --- what runs


def scan(state: int, head: int, n_head: int, n_group: int, factors: int) -> bool:
    x = leaf((head, n_head, 8, 1))
    b = leaf((state, n_group, 8, 1))
    sources = [leaf((state, head, n_head)), x, leaf((n_head, 8)), leaf((factors, n_head)), b, b]
    return runs(ANY, node("SSM_SCAN", (1,), sources))


@pytest.mark.parametrize(
    ("dims", "wanted"),
    [
        ((128, 64, 80, 1, 1), True),
        ((256, 64, 80, 8, 1), True),
        ((96, 64, 80, 1, 1), True),
        ((64, 64, 80, 1, 1), False),
        ((128, 40, 80, 1, 1), False),
        ((16, 1, 5120, 1, 16), True),
        ((16, 1, 5100, 1, 16), False),
        ((16, 1, 5120, 2, 16), False),
        ((8, 1, 5120, 1, 8), False),
    ],
)
def test_state_space_scans(dims: tuple[int, int, int, int, int], wanted: bool) -> None:
    """Mamba-2 with states of 96, 128 or 256 and heads in sixteens; Mamba with 16 and channels in 128s."""
    assert scan(*dims) is wanted


def test_operations_that_cuda_refuses() -> None:
    """Odd convolutions, rows of small blocks, f32-only experts, small indexers, what no list names."""

    def does(op: str, sources: list[Tensor], params: tuple[int, ...] = ()) -> bool:
        return runs(ANY, node(op, (32, 4), sources, params=params))

    assert does("SSM_CONV", [leaf((515, 256, 1)), leaf((4, 256))])
    assert not does("SSM_CONV", [leaf((515, 200, 1)), leaf((4, 200))])
    table, ids = leaf((288, 10), BY_NAME["iq4_nl"]), leaf((4,), I32)
    assert not does("GET_ROWS", [table, ids])
    assert does("GET_ROWS", [leaf((512, 10), BY_NAME["iq4_nl"]), ids])
    assert does("GET_ROWS", [leaf((288, 10), BY_NAME["q4_0"]), ids])
    experts = [leaf((64, 32, 8)), leaf((64, 2, 4)), leaf((2, 4), I32)]
    assert does("MUL_MAT_ID", experts)
    assert not does("MUL_MAT_ID", experts, (0, 0, 0, 10))
    for n_head, supported in ((64, True), (32, True), (8, False)):
        assert does("LIGHTNING_INDEXER", [leaf((128, n_head, 4)), leaf((128, 1, 256), F16)]) is supported
    assert not does("MUL_MAT", [leaf((256, 32), BY_NAME["tq1_0"]), leaf((256, 4))])
    assert not does("MUL_MAT", [leaf((64, 32)), leaf((64, 4), F16)])
    assert not does("WIN_PART", [leaf((64, 32))])


def gapped(shape: tuple[int, ...], type_: TensorType = F32, behind: int = 1) -> Tensor:
    """A tensor with a gap behind each element (0), row (1), matrix (2) or block of matrices (3)."""
    t = leaf(shape, type_)
    a, b, c, d = (n if i < behind else 2 * n for i, n in enumerate(t.nb))
    t.nb = (a, b, c, d)
    return t


BIG = (32, 4, 3, 2)
ANYTHING = """NONE RESHAPE VIEW PERMUTE TRANSPOSE ADD_ID ADD1 SQR SQRT SIN COS CLAMP LOG DUP ARGMAX COUNT_EQUAL CONT
    DIAG_MASK_INF SOFT_MAX TOP_K ARGSORT CONV_TRANSPOSE_2D POOL_1D POOL_2D PAD UPSCALE PAD_REFLECT_1D ARANGE
    TIMESTEP_EMBEDDING LEAKY_RELU RWKV_WKV6 RWKV_WKV7 GATED_LINEAR_ATTN GATED_DELTA_NET FILL CUMSUM TRI DIAG
    SOLVE_TRI"""


@pytest.mark.parametrize("op", ANYTHING.split())
def test_what_runs_on_anything(op: str) -> None:
    """These run whatever their sources are."""
    assert runs(ANY, node(op, BIG, [gapped(BIG, BF16, 0)], F16))


@pytest.mark.parametrize(
    ("ops", "gaps"),
    [
        ("UNARY GROUP_NORM ROLL IM2COL CONV_2D ACC COL2IM_1D", ""),
        ("NORM RMS_NORM L2_NORM SUM SUM_ROWS MEAN", "123"),
        ("GLU", "1"),
        ("ROPE ROPE_BACK", "12"),
        (
            "SCALE REPEAT OUT_PROD CONV_TRANSPOSE_1D CONV_2D_DW ADD SUB MUL DIV SET DSV4_HC_COMB DSV4_HC_PRE",
            "0123",
        ),
        ("DSV4_HC_POST CONCAT", "0123"),
        ("MUL_MAT MUL_MAT_ID", "123"),
    ],
)
def test_where_sources_may_have_gaps(ops: str, gaps: str) -> None:
    """An operation on f32 takes gaps behind elements (0), rows (1), matrices (2) and further out (3), or does not."""
    for op in ops.split():
        assert runs(ANY, node(op, BIG, [leaf(BIG), leaf(BIG)])), op
        for behind in range(4):
            taken = str(behind) in gaps
            assert runs(ANY, node(op, BIG, [gapped(BIG, behind=behind), leaf(BIG)])) is taken, (op, behind)
            if op in ("IM2COL", "CONV_2D", "ACC", "MUL_MAT", "MUL_MAT_ID"):
                assert runs(ANY, node(op, BIG, [leaf(BIG), gapped(BIG, behind=behind)])) is taken, (
                    op,
                    behind,
                )


@pytest.mark.parametrize(
    "op", ["UNARY", "GLU", "NORM", "RMS_NORM", "L2_NORM", "GROUP_NORM", "ROPE", "ROPE_BACK", "SUM"]
)
def test_the_first_source_alone_decides(op: str) -> None:
    """Positions, factors and gates beside it may be of any type, with any gaps."""
    assert runs(ANY, node(op, BIG, [leaf(BIG, F16), gapped((4, 2, 2, 2), I32, 0)], F16))


REFUSED = ["q8_1", "i8", "i16", "i64", "f64", "tq1_0", "tq2_0"]


def test_types_of_matrices_and_rows() -> None:
    """All types but a few can be multiplied by f32, and rows of nearly as many can be looked up."""
    for name, kind in BY_NAME.items():
        table = leaf((256, 8), kind)
        for op in ("MUL_MAT", "MUL_MAT_ID"):
            assert runs(ANY, node(op, (8, 4), [table, leaf((256, 4))])) is (name not in [*REFUSED, "i32"]), (
                name
            )
        rows = node("GET_ROWS", (256, 4), [table, leaf((4,), I32)])
        assert runs(ANY, rows) is (name not in [*REFUSED, "q8_K", "nvfp4"]), name
    assert not runs(ANY, node("GET_ROWS", (288, 4), [leaf((288, 8), BY_NAME["mxfp4"]), leaf((4,), I32)]))


def test_types_of_copies() -> None:
    """f32 is quantized and back, floats are cast, and anything contiguous is copied to its own type."""
    floats = {"f32", "f16", "bf16"}
    cached = {"q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "i32"}
    for a in BY_NAME:
        for b in BY_NAME:
            cast = (
                {a, b} <= floats or (a == "f32" and b in cached | {"iq4_nl"}) or (b == "f32" and a in cached)
            )
            cast = cast or a == b == "i32"
            for behind in (1, 2):
                sources = [gapped((256, 4, 2), BY_NAME[a], behind), leaf((256, 4, 2), BY_NAME[b])]
                assert runs(ANY, node("CPY", (256, 4, 2), sources)) is cast, (a, b)
            sources[:] = [leaf((256, 4), BY_NAME[a]), gapped((256, 4), BY_NAME[b])]
            assert runs(ANY, node("CPY", (256, 4), sources)) is cast, (a, b)
            sources[:] = [leaf((256, 4), BY_NAME[a]), leaf((256, 4), BY_NAME[b])]
            assert runs(ANY, node("CPY", (256, 4), sources)) is (cast or a == b), (a, b)


def test_types_of_written_rows() -> None:
    """Rows of f32 are written into cache types, rows of f16 into f16, at places in i32 or i64."""
    written = {"f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl"}
    for name, kind in BY_NAME.items():
        for new in (F32, F16, BF16):
            for at in ("i64", "i32", "i16", "f32"):
                rows = node("SET_ROWS", (256, 8), [leaf((256, 4), new), leaf((4,), BY_NAME[at])], kind)
                wanted = at in ("i64", "i32") and (name in written if new is F32 else new is F16 is kind)
                assert runs(ANY, rows) is wanted, (name, new, at)


def accepted(op: str, kinds: str) -> set[str]:
    """For which types of first source, second source and result an operation runs, of these kinds."""
    names = kinds.split()
    found = set()
    for a in names:
        for b in names:
            for to in names:
                if runs(ANY, node(op, BIG, [leaf(BIG, BY_NAME[a]), leaf(BIG, BY_NAME[b])], BY_NAME[to])):
                    found.add(f"{a} {b} {to}")
    return found


def test_types_of_arithmetic() -> None:
    """f32 and f16 mix, bf16 takes f32 beside it; the rest wants f32, or one type."""
    kinds = "f32 f16 bf16 i32"
    halves = {f"{a} {b} {to}" for a in ("f32", "f16") for b in ("f32", "f16") for to in ("f32", "f16")}
    for op in ("ADD", "SUB", "MUL", "DIV"):
        assert accepted(op, kinds) == halves | {"bf16 bf16 bf16", "bf16 f32 bf16"}
    for op in (
        "OUT_PROD",
        "CONV_TRANSPOSE_1D",
        "SUM_ROWS",
        "MEAN",
        "DSV4_HC_COMB",
        "DSV4_HC_PRE",
        "DSV4_HC_POST",
    ):
        assert "f32 f32 f32" in accepted(op, kinds), op
        assert {x.split()[0] + x.split()[2] for x in accepted(op, kinds)} == {"f32f32"}, op
    assert accepted("DSV4_HC_POST", kinds) == {"f32 f32 f32"}
    assert accepted("SET", kinds) == {"f32 f32 f32", "i32 i32 i32"}
    assert accepted("CONV_2D_DW", kinds) == {"f32 f32 f32", "f16 f32 f32"}
    one = {f"{x} {x}" for x in ("f32", "f16", "bf16")}
    assert {f"{x.split()[0]} {x.split()[2]}" for x in accepted("COL2IM_1D", kinds)} == one
    assert {f"{x.split()[0]} {x.split()[2]}" for x in accepted("SCALE", kinds)} == one - {"f16 f16"}
    assert {x.split()[0] for x in accepted("REPEAT", kinds)} == {"f32", "f16"}
    assert {x.split()[0] for x in accepted("ROLL", kinds)} == {"f32"}


def test_types_of_concatenations() -> None:
    """One type, quantized only in whole blocks and without gaps."""
    for name, kind in BY_NAME.items():
        same = [leaf((256, 4), kind), leaf((256, 4), kind)]
        assert runs(ANY, node("CONCAT", (512, 4), same, kind)), name
        assert not runs(ANY, node("CONCAT", (512, 4), same, F32 if kind is not F32 else F16))
        assert not runs(
            ANY, node("CONCAT", (512, 4), [same[0], leaf((256, 4), F32 if kind is not F32 else F16)], kind)
        )
        if kind.is_quantized:
            for sources in ([same[0], gapped((256, 4), kind)], [gapped((256, 4), kind), same[0]]):
                assert not runs(ANY, node("CONCAT", (512, 4), sources, kind))
    part = leaf((40, 1), Q8)
    assert not runs(ANY, node("CONCAT", (80, 1), [part, part], Q8))


def test_hadamard_products() -> None:
    """f16 activations are taken by f16 matrices, and by f32 ones that a hint calls Hadamard's."""

    def does(
        a: TensorType, b: Tensor, hint: int = 1, shape: tuple[int, ...] = (64, 4), to: TensorType = F32
    ) -> bool:
        return runs(ANY, node("MUL_MAT", shape, [leaf((64, 64), a), b], to, (0, hint)))

    b = leaf((64, 4), F16)
    assert does(F32, b)
    assert does(F16, b, hint=0)
    assert not does(F32, b, hint=0)
    assert not does(F32, b, hint=2)
    assert not does(Q8, b)
    assert not does(BF16, b)
    assert not does(F32, b, to=F16)
    assert not does(F32, b, shape=(32, 4))
    assert not does(F32, gapped((64, 4), F16))
    odd = node("MUL_MAT", (64, 4), [leaf((64, 64)), b], params=(0, 1))
    odd.tensor.nb = gapped((64, 4)).nb
    assert not runs(ANY, odd)
    experts = [leaf((64, 32, 8)), leaf((64, 2, 4), F16), leaf((2, 4), I32)]
    assert not runs(ANY, node("MUL_MAT_ID", (32, 4), experts))


def test_sparse_indexers() -> None:
    """Scores of 32 or 64 heads of 128, on cache types, with strides of sixteen bytes where not quantized."""

    def does(q: Tensor, k: Tensor) -> bool:
        return runs(ANY, node("LIGHTNING_INDEXER", (32, 4), [q, k]))

    q, k = leaf((128, 64, 4), F16), leaf((128, 1, 256), F16)
    for name, kind in BY_NAME.items():
        wanted = name in ["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
        assert does(q, leaf((256, 1, 256), kind)) is wanted, name
    assert not does(leaf((64, 64, 4)), k)
    assert not does(leaf((128, 48, 4)), k)
    for behind in (1, 2, 3):
        odd = leaf((128, 64, 4), F16)
        odd.nb = tuple(n + 8 * (i == behind) for i, n in enumerate(odd.nb))  # type: ignore[assignment]
        assert not does(odd, k)
        odd = leaf((128, 1, 256), F16)
        odd.nb = tuple(n + 8 * (i == behind) for i, n in enumerate(odd.nb))  # type: ignore[assignment]
        assert not does(q, odd)


def test_scans_and_convolutions_at_their_bounds() -> None:
    """Mamba's scan keeps one snapshot of its state at most, which Mamba-2's need not."""

    def does(n_snapshots: int, factors: int, state: tuple[int, ...]) -> bool:
        b = leaf((state[0], 1, 8, 1))
        sources = [leaf(state), leaf((1, 128, 8, 1)), leaf((128, 8)), leaf((factors, 128)), b, b]
        return runs(ANY, node("SSM_SCAN", (1,), sources, params=(n_snapshots,)))

    assert does(1, 16, (16, 1, 128))
    assert does(0, 16, (16, 1, 128))
    assert not does(2, 16, (16, 1, 128))
    assert not does(1, 16, (16, 2, 128))
    assert does(2, 1, (128, 16, 128))
    assert not does(2, 1, (128, 8, 128))
    for channels, wanted in ((128, True), (384, True), (129, False), (64, False)):
        assert runs(ANY, node("SSM_CONV", (1,), [leaf((4, channels)), leaf((4, channels))])) is wanted


# --- mixtures of experts


class Graph:
    """A graph in the making: each call appends a node and returns its number."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.nodes: list[int] = []

    def leaf(self, *ne: int) -> int:
        self.tensors.append(leaf(ne))
        return len(self.tensors) - 1

    def node(self, op: str, ne: tuple[int, ...], *src: int, type_: TensorType = F32, view: int = NONE) -> int:
        t = leaf(ne, type_)
        t.op, t.src, t.view = op, src, view
        self.tensors.append(t)
        self.nodes.append(len(self.tensors) - 1)
        return self.nodes[-1]

    def kept(self, end: int | None = None, optimize: Any = graph_optimize) -> dict[int, set[int]]:
        found: dict[int, set[int]] = {}
        sources = [t.src for t in self.tensors]
        uses = [sum(x.count(i) for x in sources) for i in range(len(sources))]
        split = SplitGraph(self.tensors, sources, self.nodes, 0, end or len(self.nodes), uses.__getitem__)
        optimize(split, lambda tensor, until: found.setdefault(until, set()).add(tensor))
        return found


def weighted_sum(g: Graph, n_used: int, *, scaled: bool = False, swap: bool = False) -> tuple[list[int], int]:
    """Experts × weights, summed: the inputs, and the last addition."""
    n_embd, n_tokens = 32, 5
    experts = g.node(
        "MUL_MAT_ID", (n_embd, n_used, n_tokens), g.leaf(64, n_embd, 8), g.leaf(64, n_used, n_tokens)
    )
    weights = g.node("GET_ROWS", (1, n_used, n_tokens), g.leaf(1, 8, n_tokens), g.leaf(n_used, n_tokens))
    inputs = [experts, weights]
    whole = (n_embd, n_used, n_tokens)
    if scaled:
        inputs.append(g.leaf(1, n_used, n_tokens))
        experts = g.node("MUL", whole, experts, inputs[2])
    pair = (weights, experts) if swap else (experts, weights)
    product = g.node("MUL", whole, *pair)
    views = []
    for i in range(n_used):
        view = g.node("VIEW", (n_embd, n_tokens), product, view=product)
        t = g.tensors[view]
        t.nb = (4, g.tensors[product].nb[2], t.nb[2], t.nb[3])
        t.offset = i * g.tensors[product].nb[1]
        views.append(view)
    total = views[0]
    for view in views[1:]:
        total = g.node("ADD", (n_embd, n_tokens), total, view)
    return inputs, total


@pytest.mark.parametrize("n_used", range(1, 18))
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("swap", [False, True])
def test_the_weighted_sum_of_2_to_15_experts_keeps_its_inputs(n_used: int, scaled: bool, swap: bool) -> None:
    """Experts, weights and scales live until the last addition (ggml-cuda.cu:3044)."""
    g = Graph()
    inputs, last = weighted_sum(g, n_used, scaled=scaled, swap=swap)
    g.node("ADD", (32, 5), last, g.leaf(32, 5))
    assert g.kept() == ({last: set(inputs)} if 2 <= n_used <= 15 else {})


@pytest.mark.parametrize("keeps", ["keeps_sum", "keeps_choice"])
def test_older_builds_keep_one_group_or_the_other(keeps: str) -> None:
    """A build that lacks a group keeps nothing for it, and for the other what the pinned build keeps."""
    older = backend("cuda", **{keeps: False}).graph_optimize
    for group in (weighted_sum, choice):
        g = Graph()
        group(g, 4)
        g.node("ADD", (32, 5), g.nodes[-1], g.leaf(32, 5))
        lacks = (group is weighted_sum) == (keeps == "keeps_sum")
        assert g.kept(optimize=older) == ({} if lacks else g.kept())
        assert g.kept()


def test_a_sum_that_is_read_elsewhere_is_not_fused() -> None:
    """Not fused: a slice that somebody else reads, a product that is an output, a sum cut by the split's end."""
    g = Graph()
    _, last = weighted_sum(g, 4)
    assert g.kept()
    assert not g.kept(end=len(g.nodes) - 1)
    product = next(i for i in g.nodes if g.tensors[i].op == "MUL")
    g.tensors[product].flags = OUTPUT
    assert not g.kept()
    g.tensors[product].flags = 0
    g.node("ADD", (32, 5), last, g.nodes[-3])
    assert not g.kept()


def choice(
    g: Graph,
    n_expert: int,
    *,
    gate: str = "SOFT_MAX",
    bias: bool = False,
    norm: bool = False,
    scale: bool = False,
    mask: bool = False,
) -> tuple[list[int], int]:
    """The choice of 4 experts for 5 tokens: its nodes, and the logits."""
    logits = g.node("MUL_MAT", (n_expert, 5), g.leaf(64, n_expert), g.leaf(64, 5))
    start = len(g.nodes)
    probs = g.node(gate, (n_expert, 5), logits, *([g.leaf(n_expert, 5)] if mask else []))
    if gate == "UNARY" and scale:
        probs = g.node("SQRT", (n_expert, 5), probs)
    rows = g.node("RESHAPE", (1, n_expert, 5), probs, view=probs)
    chosen = g.node("ADD", (n_expert, 5), probs, g.leaf(n_expert)) if bias else probs
    order = g.node("ARGSORT", (n_expert, 5), chosen, type_=I32)
    ids = g.node("VIEW", (4, 5), order, type_=I32, view=order)
    g.tensors[ids].nb = contiguous(I32, (n_expert, 5, 1, 1))
    weights = g.node("GET_ROWS", (1, 4, 5), rows, ids)
    if norm:
        flat = g.node("RESHAPE", (4, 5), weights, view=weights)
        total = g.node("CLAMP", (1, 5), g.node("SUM_ROWS", (1, 5), flat))
        quotient = g.node("DIV", (4, 5), flat, total)
        weights = g.node("RESHAPE", (1, 4, 5), quotient, view=quotient)
    if scale:
        weights = g.node("SCALE", (1, 4, 5), weights)
    group = g.nodes[start:]
    g.node("MUL_MAT_ID", (32, 4, 5), g.leaf(64, 32, n_expert), g.leaf(64, 4, 5), ids)
    g.node("MUL", (32, 4, 5), g.nodes[-1], weights)
    return group, logits


@pytest.mark.parametrize("gate", ["SOFT_MAX", "UNARY"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("scale", [False, True])
def test_the_choice_of_experts_keeps_all_it_reads(gate: str, bias: bool, norm: bool, scale: bool) -> None:
    """Its nodes and their sources live until the node behind it (ggml-cuda.cu:2813)."""
    g = Graph()
    group, logits = choice(g, 64, gate=gate, bias=bias, norm=norm, scale=scale)
    until = g.nodes[g.nodes.index(group[-1]) + 1]
    found = g.kept()
    assert set(found) == {until}
    assert set(group) < found[until]
    assert logits in found[until]


@pytest.mark.parametrize(
    ("n_expert", "fused"), [(8, True), (60, False), (288, True), (512, True), (576, True), (1024, False)]
)
def test_the_choice_is_fused_for_some_counts_of_experts(n_expert: int, fused: bool) -> None:
    """Powers of two up to 512, 288 and 576 have a kernel (topk-moe.cu:403)."""
    g = Graph()
    choice(g, n_expert)
    assert bool(g.kept()) is fused


def test_a_masked_softmax_is_no_gate() -> None:
    """A softmax with a mask, or probabilities that somebody else reads, are not fused."""
    g = Graph()
    choice(g, 64, mask=True)
    assert not g.kept()
    g = Graph()
    group, _ = choice(g, 64)
    g.node("ADD", (64, 5), group[0], g.leaf(64, 5))
    assert not g.kept()


# --- groups, link by link


def changes(g: Graph, group: list[int]) -> Iterator[str]:
    """Break one thing of a group at a time, and mend it again: a link, an operation, a layout, a flag."""
    for i in group:
        t = g.tensors[i]
        for j, s in enumerate(t.src):
            if s in group:
                g.tensors.append(replace(g.tensors[s], op="NONE", src=(), view=NONE))
                src, t.src = t.src, (*t.src[:j], len(g.tensors) - 1, *t.src[j + 1 :])
                yield f"source {j} of {t.op}"
                t.src = src
                g.tensors.pop()
        op, t.op = t.op, "CONT"
        yield f"no {op}"
        t.op = op


@pytest.mark.parametrize("gate", ["SOFT_MAX", "UNARY"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("scale", [False, True])
def test_a_choice_with_a_broken_link_is_another(gate: str, bias: bool, norm: bool, scale: bool) -> None:
    """If a node of the choice reads something else, or is another operation, the group is not fused as it was."""
    g = Graph()
    group, _ = choice(g, 64, gate=gate, bias=bias, norm=norm, scale=scale)
    until = g.nodes[g.nodes.index(group[-1]) + 1]
    for what in changes(g, group):
        assert not set(group) <= g.kept().get(until, set()), what
    assert set(group) <= g.kept()[until]


@pytest.mark.parametrize("scaled", [False, True])
def test_a_sum_with_a_broken_link_is_not_fused(scaled: bool) -> None:
    """If a product, a slice or an addition reads something else, or is something else, nothing is kept."""
    g = Graph()
    inputs, last = weighted_sum(g, 3, scaled=scaled)
    g.node("ADD", (32, 5), last, g.leaf(32, 5))
    group = g.nodes[g.nodes.index(inputs[1]) + 1 : g.nodes.index(last) + 1]
    for what in changes(g, group):
        assert set(inputs) != g.kept().get(last), what
    for i in group:
        t = g.tensors[i]
        for name, value in (
            ("type", F16), ("flags", OUTPUT), ("ne", (16, *t.ne[1:])), ("ne", (*t.ne[:2], 1, 7)),
            ("nb", (4, t.nb[1] + 4, t.nb[2], t.nb[3])), ("offset", t.offset + 64),
        ):  # fmt: skip
            if (name == "flags" and i == last) or (name == "offset" and t.op != "VIEW"):
                continue
            if name == "nb" and t.op == "ADD" and i != last:
                continue  # the engine looks at the last sum alone
            if name == "ne" and t.op == "ADD" and i != last:
                continue
            before = getattr(t, name)
            setattr(t, name, value)
            assert set(inputs) != g.kept().get(last), (t.op, name)
            setattr(t, name, before)
    assert g.kept() == {last: set(inputs)}


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("change", ["type", "nb", "ne"])
def test_inputs_of_a_sum_are_flat_f32(n: int, change: str) -> None:
    """Experts, weights and scales of another type, with gaps, or of other extents make no such sum."""
    g = Graph()
    inputs, last = weighted_sum(g, 4, scaled=True)
    t = g.tensors[inputs[n]]
    ne, nb = t.ne, t.nb
    value = {"type": F16, "nb": (nb[0], nb[1] + 4, nb[2], nb[3]), "ne": (ne[0], ne[1] + 1, ne[2], ne[3])}[
        change
    ]
    assert g.kept() == {last: set(inputs)}
    setattr(t, change, value)
    assert g.kept().get(last) != set(inputs)


def test_a_group_lies_within_its_split() -> None:
    """Wherever a split ends, only a group that lies in it whole is fused; its last node needs one behind it."""
    g = Graph()
    group, _ = choice(g, 64)
    whole = g.nodes.index(group[-1]) + 1
    until = g.nodes[whole]
    for end in range(1, len(g.nodes) + 1):
        assert set(g.kept(end)) == ({until} if end >= whole else set()), end
    del g.nodes[whole:]
    assert not g.kept()
    g = Graph()
    _, last = weighted_sum(g, 4)
    g.node("CONT", (32, 5), last)
    whole = g.nodes.index(last) + 1
    for end in range(1, len(g.nodes) + 1):
        assert bool(g.kept(end)) is (end >= whole)


def test_what_follows_a_group_is_looked_at_too() -> None:
    """Two groups in one split are both fused, as are groups behind others that are not."""
    g = Graph()
    choice(g, 60)
    first, _ = choice(g, 64)
    _, last = weighted_sum(g, 4)
    second, _ = choice(g, 64, norm=True)
    ends = [g.nodes[g.nodes.index(x[-1]) + 1] for x in (first, second)]
    assert set(g.kept()) == {ends[0], last, ends[1]}


def test_only_outputs_of_a_group_may_be_outputs() -> None:
    """The ids of the experts and the last node are read outside; no other node may be, nor be an output."""
    g = Graph()
    group, logits = choice(g, 64, norm=True, scale=True)
    for i in group:
        t = g.tensors[i]
        t.flags = OUTPUT
        outside = i == group[-1] or t.op == "VIEW"
        assert bool(g.kept()) is outside, t.op
        t.flags = 0
    for i in (logits, group[-1]):
        nb = g.tensors[i].nb
        g.tensors[i].nb = (nb[0], 2 * nb[1], nb[2], nb[3])
        assert not g.kept(), "gaps"
        g.tensors[i].nb = nb
    reshaped = g.tensors[group[1]]
    view, reshaped.view = reshaped.view, g.leaf(64, 5)
    assert not g.kept(), "it views another memory"
    g.tensors[reshaped.view].usage = WEIGHT
    assert g.kept(), "but a weight's does no harm"
    reshaped.view = view
    assert g.kept()
