"""The rules of SYCL: attention's scratch and kernels, what runs, and what differs by card."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest
from nodes import attention, leaf, node, runs
from small import dense

from vramfit._devices import parse_gpus
from vramfit._estimate.estimate import estimate
from vramfit._ggml.backends import BACKENDS, Node, backend
from vramfit._ggml.types import BY_NAME, TensorType
from vramfit._llama.params import Settings

SYCL, ALCHEMIST = BACKENDS["sycl"], backend("sycl", "Xe-HPG")
F16, F32, BF16, Q8, I32 = (BY_NAME[n] for n in ("f16", "f32", "bf16", "q8_0", "i32"))


def halves(n_bytes: int, *counts: int) -> int:
    """Blocks of f16 numbers behind a result, each from a multiple of 128 bytes on."""
    for n in counts:
        n_bytes = (n_bytes + 127) // 128 * 128 + 2 * n
    return n_bytes


def with_params(found: Node, *params: int) -> Node:
    found.tensor.params = params
    return found


@pytest.mark.parametrize(
    ("types", "blocks"),
    [
        ((F16, F16), "q 1 q"),  # bound in place
        ((Q8, Q8), "q k v 1 q"),
        ((F32, Q8), "q k v 1 q"),
        ((BF16, BF16), "k v"),  # oneDNN takes none; the tile kernel copies what is not f16
        ((Q8, F16), "k"),
        ((F16, Q8), "v"),
        ((Q8, BF16), "k v"),
    ],
)
def test_attention_carries_the_worst_of_all_kernels(
    types: tuple[TensorType, TensorType], blocks: str
) -> None:
    """Q, K, V, a scale and the result in f16 (fattn.cpp:383-453), whatever the number of tokens."""
    for n_tokens in (1, 3, 512):
        found = attention(128, 128, 4, n_tokens, *types, n_head_kv=2)
        q, k = 8 * n_tokens * 128, prod((128, 256, 2))
        counts = {"q": q, "k": k, "v": k, "1": 1}
        assert SYCL.with_scratch(1000, found) == halves(1000, *(counts[b] for b in blocks.split()))


def test_what_onednn_does_not_take_needs_less() -> None:
    """No mask, sinks, several streams, ALiBi, soft caps, heads of two widths; and heads of 64 on Arc's first generation."""
    q = 8 * 512 * 128
    assert SYCL.with_scratch(0, attention(128, 128)) == halves(0, q, 1, q)
    for found in (
        attention(128, 128, mask=False),
        attention(128, 64),
        with_params(attention(128, 128), 0, 1),
        with_params(attention(128, 128), 0, 0, 1),
    ):
        assert SYCL.with_scratch(0, found) == 0
    sinks = attention(128, 128)
    assert SYCL.with_scratch(0, sinks._replace(src=(*sinks.src, leaf((8,))))) == 0
    streams = attention(128, 128)
    streams.src[0].ne = (128, 512, 8, 2)
    assert SYCL.with_scratch(0, streams) == 0
    masks = attention(128, 128)
    masks.src[3].ne = (256, 512, 1, 2)
    assert SYCL.with_scratch(0, masks) == 0
    narrow = attention(64, 64)
    assert SYCL.with_scratch(0, narrow) == halves(0, q // 2, 1, q // 2)
    assert ALCHEMIST.with_scratch(0, narrow) == 0
    assert ALCHEMIST.with_scratch(0, attention(128, 128)) == halves(0, q, 1, q)


def test_v_as_a_view_of_k_is_copied_once() -> None:
    """But where oneDNN may take it."""
    one = prod((128, 256, 8))
    assert SYCL.with_scratch(0, attention(128, 64, k_type=BF16, v_type=BF16, v_in_k=True)) == halves(0, one)
    q = 8 * 512 * 128
    both = attention(128, 128, k_type=Q8, v_type=Q8, v_in_k=True)
    assert SYCL.with_scratch(0, both) == halves(0, q, one, one, 1, q)


@pytest.mark.parametrize(
    ("k", "v", "gqa", "n_tokens", "n_kv", "types", "wanted"),
    [
        (128, 128, 1, 1, 256, (F16, F16), True),
        (512, 512, 1, 1, 256, (F16, F16), True),
        (128, 64, 1, 1, 256, (F16, F16), False),
        (576, 512, 2, 1, 256, (F16, F16), True),
        (576, 512, 1, 1, 256, (F16, F16), False),
        (576, 512, 2, 1, 200, (F16, F16), False),
        # oneDNN takes any width of a prompt, of caches that it converts from 1024 cells on
        (100, 100, 1, 31, 256, (F16, F16), False),
        (100, 100, 1, 32, 256, (F16, F16), True),
        (192, 192, 1, 32, 768, (Q8, Q8), False),
        (192, 192, 1, 32, 1024, (Q8, Q8), True),
        # MKL multiplies grouped heads of any cache
        (192, 192, 2, 32, 1024, (BF16, BF16), True),
        (192, 192, 1, 32, 1024, (BF16, BF16), False),
        (192, 192, 2, 32, 768, (BF16, BF16), False),
        (192, 192, 2, 16, 1024, (BF16, BF16), False),
        (200, 200, 2, 32, 1024, (BF16, BF16), False),
        (576, 576, 2, 32, 1024, (BF16, BF16), False),
        # caches that a kernel reads
        (128, 128, 1, 1, 256, (BY_NAME["iq4_nl"], F16), False),
        (128, 128, 1, 1, 256, (BY_NAME["q5_1"], F16), True),
    ],
)  # fmt: skip
def test_which_attention_has_a_kernel(
    k: int, v: int, gqa: int, n_tokens: int, n_kv: int, types: tuple[TensorType, TensorType], wanted: bool
) -> None:
    """The choice of fattn.cpp:113."""
    assert runs(SYCL, attention(k, v, gqa, n_tokens, *types, n_kv=n_kv)) is wanted


def test_masks_of_attention_are_one_for_all_heads() -> None:
    per_head = attention(128, 128, n_tokens=1)
    per_head.src[3].ne = (256, 1, 8, 1)
    assert not runs(SYCL, per_head)
    capped = with_params(attention(192, 192, 2, 32, BF16, BF16, n_kv=1024), 0, 0, 1)
    assert not runs(SYCL, capped)


def test_what_sycl_runs() -> None:
    """Products but of ternary types; copies but to super-blocks; Mamba-2 alone; small triangles."""
    x = leaf((256, 4))
    for kind, wanted in (("q4_K", True), ("tq1_0", False), ("bf16", True)):
        assert runs(SYCL, node("MUL_MAT", (8, 4), [leaf((256, 8), BY_NAME[kind]), x])) is wanted
    assert not runs(SYCL, node("MUL_MAT", (8, 4), [leaf((256, 8, 1, 2), F16), x]))
    for a, b, wanted in (
        ("f32", "q8_0", True),
        ("f32", "q4_K", False),
        ("f16", "q6_K", False),
        ("bf16", "q8_0", False),
        ("bf16", "q5_0", True),
        ("iq4_nl", "f32", False),
        ("q8_0", "f32", True),
        ("iq3_s", "iq3_s", False),
        ("q4_K", "q4_K", True),
        ("tq2_0", "f32", False),
    ):
        source, to = leaf((256, 4), BY_NAME[a]), leaf((256, 4), BY_NAME[b])
        assert runs(SYCL, node("CPY", (256, 4), [source, to], BY_NAME[b])) is wanted, (a, b)
    assert runs(SYCL, node("GET_ROWS", (256, 4), [leaf((256, 9), BY_NAME["q6_K"]), leaf((4,), I32)]))
    assert not runs(SYCL, node("GET_ROWS", (256, 4), [leaf((256, 9), BY_NAME["tq2_0"]), leaf((4,), I32)]))
    assert runs(SYCL, node("SET_ROWS", (256, 9), [x, leaf((4,), I32)], Q8))
    assert not runs(SYCL, node("SET_ROWS", (256, 9), [x, leaf((4,), I32)], BY_NAME["tq1_0"]))
    state = leaf((128, 64, 8, 1))
    others = [leaf((64, 8, 4)), leaf((8, 4)), leaf((1, 8)), leaf((128, 1, 4)), leaf((128, 1, 4))]
    assert runs(SYCL, node("SSM_SCAN", (64,), [state, *others]))
    assert not runs(SYCL, node("SSM_SCAN", (64,), [leaf((64, 64, 8, 1)), *others]))
    assert not runs(SYCL, node("SSM_SCAN", (64,), [leaf((128, 8, 8, 1)), *others]))
    for n, wanted in ((64, True), (65, False)):
        assert runs(SYCL, node("SOLVE_TRI", (8, n), [leaf((n, n)), leaf((8, n))])) is wanted
    indexer = [leaf((128, 64, 4)), leaf((128, 9), Q8), leaf((64, 4)), leaf((9, 4), F16)]
    assert runs(SYCL, node("LIGHTNING_INDEXER", (9, 4), indexer))
    assert not runs(SYCL, node("LIGHTNING_INDEXER", (9, 4), [leaf((64, 64, 4)), *indexer[1:]]))
    assert not runs(SYCL, node("FLASH_ATTN_BACK", (64,), [x]))


def test_products_of_permuted_f16() -> None:
    """What oneDNN fails at stays on the host (6481-6490)."""
    plain, b = leaf((256, 8, 2, 2), F16), leaf((256, 4, 4, 2))
    assert runs(SYCL, node("MUL_MAT", (8, 4, 4, 2), [plain, b]))
    permuted = leaf((256, 8, 2, 2), F16)
    permuted.nb = (2, 2 * 512, 512, 2 * 512 * 8)
    assert not runs(SYCL, node("MUL_MAT", (8, 4, 4, 2), [permuted, b]))
    one = leaf((256, 8, 1, 2), F16)
    b.nb = (4, 4096, 1024, 4096 * 4)
    assert not runs(SYCL, node("MUL_MAT", (8, 4, 4, 2), [one, b]))
    b.ne = (128, 4, 4, 2)
    assert runs(SYCL, node("MUL_MAT", (8, 4, 4, 2), [leaf((128, 8, 1, 2), F16), b]))


def test_a_card_is_exact_where_its_largest_buffer_is_known() -> None:
    """The driver says it; without, no limit is taken."""
    (gpu,) = parse_gpus("arc-b580:sycl")
    assert gpu.compute_capability == "Xe2-HPG"
    model = replace(dense(2), architecture="llama")
    found = estimate(model, [gpu], Settings(n_ctx=512))
    assert not found.exact
    assert "max_buffer_bytes" in found.compute_note
    known = replace(gpu, max_buffer_bytes=1 << 32)
    found = estimate(model, [known], Settings(n_ctx=512))
    assert found.exact
    rules = backend("sycl", "Xe2-HPG", max_buffer=1 << 32)
    assert rules.pinned is not None
    assert (rules.max_buffer, rules.pinned.max_buffer, rules.pinned.alignment) == (1 << 32, 1 << 32, 32)
    assert found.proof == "SYCL: its own functions on devices without memory"
    assert not backend("sycl", max_buffer=1 << 32).exact, "an Arc of unknown generation"
    assert backend("sycl", "Xe-HPG", max_buffer=1 << 32) is backend("sycl", "Xe-HPG", max_buffer=1 << 32)
