"""The rules of the backends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nodes import attention, leaf, node, runs

from vramfit._base.errors import GpuError
from vramfit._ggml.backends import BACKENDS, HOST_BACKEND, Backend, Node, backend
from vramfit._ggml.graph import NONE, n_bytes
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


def test_metal_attention_carries_more() -> None:
    """A padded tail, a map of blocks, partial results of 32 groups and f16 copies (ggml-metal-ops.cpp:3064)."""
    metal = BACKENDS["metal"]
    found = attention(128, 64, 4, n_tokens=100, n_kv=272, n_head_kv=2)
    k, _, mask = found.src[1:]
    k.nb = (2, 512, 256, 512 * 272)  # a cell holds both heads, as a cache does
    tail = 64 * (512 * 2 + 128 * 2 + 2 * 100)
    partial = 4 * 32 * 8 * 32 * 66
    copies = 2 * 272 * 2 * (128 + 64)
    blocks = 96  # 5 by 13 bytes
    assert metal.with_scratch(1000, found) == 1000 + tail + blocks + partial + copies
    mask.ne = (272, 100, 3, 2)
    more = 64 * 2 * 100 * 5 + 416 - blocks
    assert metal.with_scratch(1000, found) == 1000 + tail + blocks + partial + copies + more
    few = attention(128, 64, 4, n_tokens=1, k_type=Q8, v_type=Q8, n_kv=3, n_head_kv=1)
    tail, partial, copies = 64 * (136 + 68 + 2), 4 * 4 * 32 * 66, 2 * 3 * 192
    assert metal.with_scratch(0, few) == tail + 32 + partial + copies, "few tokens: rows as they are stored"
    odd = attention(12, 10, 1, n_tokens=1, n_kv=1, n_head_kv=1, mask=False)
    assert metal.with_scratch(0, odd) == 64 * (24 + 20) + 4 * 32 * 12 + 32 + 32, (
        "copies are padded to 16 bytes"
    )


def test_metal_copies_a_value_that_is_part_of_its_key_once() -> None:
    """As in latent attention; a quantized tail then has the width of K (ggml-metal-ops.cpp:3066, 3206)."""
    metal = BACKENDS["metal"]
    apart, within = (
        attention(576, 512, n_tokens=64, k_type=Q8, v_type=Q8, n_head_kv=1, v_in_k=x) for x in (False, True)
    )
    assert metal.with_scratch(0, apart) - metal.with_scratch(0, within) == 2 * 512 * 256 - 64 * 2 * 64


def test_metal_lists_the_cells_of_a_sparse_mask() -> None:
    """Numbers of 4 bytes for each row of the mask, in steps of 32 cells; none above 4096 (ggml-metal-ops.cpp:3217)."""
    metal = BACKENDS["metal"]
    sizes = []
    for cells in (0, 40, 4096, 4097):
        found = attention(128, 128, n_tokens=3)
        found.tensor.params = (0, 0, 0, 0, cells)
        sizes.append(metal.with_scratch(0, found))
    assert [n - sizes[0] for n in sizes] == [0, 4 * 64 * 3, 4 * 4096 * 3, 0]


def test_heads_of_metal_and_vulkan() -> None:
    """Metal has kernels for these widths of K and any narrower V; Vulkan for all multiples of 8, each of K and V by itself."""
    square = (32, 40, 48, 64, 72, 80, 96, 112, 128, 192, 256, 320, 512, 576)
    sizes = range(8, 640, 8)
    wanted = {(k, v) for k in square for v in sizes if v <= k and (k != 72 or v == 72)}
    assert {(k, v) for k in sizes for v in sizes if runs(BACKENDS["metal"], attention(k, v))} == wanted
    assert not runs(BACKENDS["vulkan"], attention(100, 96))
    assert not runs(BACKENDS["vulkan"], attention(96, 100))
    for k, v in ((8, 16), (40, 24)):
        assert runs(BACKENDS["vulkan"], attention(k, v))


@pytest.mark.parametrize(
    ("name", "sizes", "manners", "ops"),
    [
        ("metal", (32, 0, 0, 32), (False, False, True, False), {"MUL_MAT", "MUL_MAT_ID"}),
        ("sycl", (128, 512, 0, 32), (False, False, True, True), set()),
        ("cpu", (32, 0, 0, 0), (True, False, False, False), set()),
    ],
)
def test_what_the_other_backends_are(
    name: str, sizes: tuple[int, ...], manners: tuple[bool, ...], ops: frozenset[str]
) -> None:
    """Alignment, row padding, largest buffer, batch to offload; exact, own memory alone, asynchronous, pinned host."""
    b = backend(name)
    assert (b.name, b.offload_ops) == (name, ops)
    assert (b.alignment, b.row_padding, b.max_buffer, b.offload_batch) == sizes
    assert (b.exact, b.own_memory_only, b.async_events, b.host_buffer) == manners
    assert (b.ops is None, b.graph_optimize is None, b.may_be) == (name == "cpu", name != "metal", ())
    assert bool(b.repacked) is (name == "cpu")


def test_which_matrices_the_cpu_repacks() -> None:
    """Some types, where rows come in eights; rows of one dimension never."""
    repacked = {"q4_0", "q4_K", "iq4_nl", "mxfp4", "q2_K"}
    for name, kind in BY_NAME.items():
        assert HOST_BACKEND.repacks(kind, (256, 16)) is (name in repacked)
        assert not HOST_BACKEND.repacks(kind, (256, 12))
        assert not HOST_BACKEND.repacks(kind, (256,))
        assert HOST_BACKEND.repacks(kind, (256, 8, 3)) is (name in repacked)


def test_nodes_of_quantized_results_are_padded() -> None:
    """A quantized result has its last row completed, with scratch or without; others take their bytes."""
    for kind, n in ((Q8, (28 * 2 + 4) * 34), (F16, 896 * 2 * 2)):
        found = node("CPY", (896, 2), [leaf((896, 2))], kind)
        assert CUDA.node_bytes(found) == CUDA.tensor_bytes(found.tensor) == n
    assert BACKENDS["metal"].node_bytes(node("ARGSORT", (10,), [leaf((10,))])) == 80


def test_views_of_one_place() -> None:
    """A source views another, or both view the same place of one root; roots of their own are no views."""

    def views(a: tuple[int, int], b: tuple[int, int], ids: tuple[int, int] = (3, 4)) -> bool:
        sources = [leaf((8,)), leaf((8,))]
        for t, (view, offset) in zip(sources, (a, b), strict=True):
            t.view, t.offset = view, offset
        return Node(leaf((8,)), tuple(sources), ids).views(0, 1)

    assert views((4, 64), (NONE, 0))
    assert views((7, 64), (7, 64))
    assert not views((7, 64), (7, 0))
    assert not views((7, 64), (9, 64))
    assert not views((NONE, 0), (NONE, 0))
    assert not views((3, 0), (NONE, 0))


def test_metal_nodes_carry_more() -> None:
    """On Metal, sorting and the choice of experts need room beside the result."""
    metal = BACKENDS["metal"]
    experts = node("MUL_MAT_ID", (1,), [leaf((64, 32, 16)), leaf((64, 1, 512)), leaf((4, 512))])
    assert metal.with_scratch(1000, experts) == 1000 + 4 * 16 * 513 + 8 + 1024
    for op in ("ARGSORT", "CUMSUM"):
        assert metal.with_scratch(1000, node(op, (250,), [leaf((250,))])) == 2000
    assert metal.with_scratch(40, node("TOP_K", (250,), [leaf((250, 2))])) == 4000
    assert metal.with_scratch(1000, node("ADD", (250,), [leaf((250,))])) == 1000


def test_offload_counts_rows() -> None:
    """From 32 rows on an operation moves to its copy of the weight; looking rows up never does."""
    assert CUDA.offload_op("MUL_MAT", (4096, 32, 1, 1))
    assert not CUDA.offload_op("MUL_MAT", (4096, 31, 8, 1))
    assert CUDA.offload_op("MUL_MAT_ID", (4096, 1, 32, 1))
    assert not CUDA.offload_op("MUL_MAT_ID", (4096, 32, 31, 1))
    for op in ("ROPE", "ROPE_BACK"):
        assert CUDA.offload_op(op, (64, 1, 32, 1))
        assert not CUDA.offload_op(op, (64, 32, 31, 2))
    assert CUDA.offload_op("ADD", (1, 4, 8, 1))
    assert CUDA.offload_op("ADD", (1, 4, 2, 4))
    assert not CUDA.offload_op("ADD", (32, 31, 1, 1))
    assert BACKENDS["metal"].offload_op("MUL_MAT", (1, 32, 1, 1))
    assert BACKENDS["metal"].offload_op("MUL_MAT_ID", (1, 1, 32, 1))
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
        (F32, F16, 2, False),
        (F32, Q8, 1, False),
        (Q8, F16, 0, False),
        (Q8, F16, 1, False),
        (F16, BF16, 0, False),
        (F16, BF16, 1, False),
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


@pytest.mark.parametrize("b", BACKENDS.values(), ids=BACKENDS)
@pytest.mark.parametrize("op", ["MUL_MAT", "MUL_MAT_ID", "GET_ROWS"])
def test_no_rule_tells_k_quants_apart(b: Backend, op: str) -> None:
    """Layers whose weights differ in their K-quants alone count as repeats: what reads a weight runs, and takes, alike."""
    inputs = [leaf((512, 8)), leaf((2, 8), BY_NAME["i32"])] if op == "MUL_MAT_ID" else [leaf((512, 8))]
    shape = (64, 2, 8) if op == "MUL_MAT_ID" else (64, 8)
    rows = leaf((8,), BY_NAME["i32"])
    seen = set()
    for kind in BY_NAME.values():
        if kind.use == "K":
            weight = leaf((512, 64, 4) if op == "MUL_MAT_ID" else (512, 64), kind)
            asked = node(op, shape, [weight, rows] if op == "GET_ROWS" else [weight, *inputs])
            seen.add((runs(b, asked), b.node_bytes(asked)))
    assert len(seen) == 1
    assert {kind.name for kind in BY_NAME.values() if kind.use == "K"} == {f"q{n}_K" for n in range(2, 7)}
