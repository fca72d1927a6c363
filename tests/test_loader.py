"""Which weights a device cannot use: what it is asked, and what CUDA answers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from small import dense, gpu

from vramfit._ggml.backends import BACKENDS, HOST_BACKEND, Backend
from vramfit._ggml.graph import Extents
from vramfit._ggml.graph import Tensor as Node
from vramfit._ggml.types import BY_NAME
from vramfit._llama.loader import can_use
from vramfit._llama.model import Tensor, Weight
from vramfit._llama.params import Settings
from vramfit._llama.placement import HOST, place

CUDA = BACKENDS["cuda"]


def weight(op: str, shape: tuple[int, ...], type_: str = "f32", scan: tuple[int, ...] = ()) -> Weight:
    """A weight of the first layer, made for one operation."""
    return Weight(Tensor("blk.0.some.weight", shape, BY_NAME[type_]), 0, op=op, scan=scan)


@pytest.mark.parametrize(
    ("scan", "shape", "wanted"),
    [
        ((128, 1, 512, 1), (128, 512), False),  # Mamba, Jamba: a state of 128 where the kernel has 16
        ((2, 512, 1, 1), (2,), False),  # PLaMo 2, whose factors the loader takes for Mamba's
        ((128, 256, 2, 2), (1, 2), True),  # Mamba 2
        ((16, 1, 512, 1), (16, 512), True),  # Mamba as published
        ((16, 1, 500, 1), (16, 500), False),
        ((16, 1, 512, 2), (16, 512), False),
    ],
)
def test_scans_that_cuda_has_no_kernel_for_stay_on_the_host(
    scan: tuple[int, ...], shape: tuple[int, ...], wanted: bool
) -> None:
    """The factors of a state-space scan are in host memory where the scan has no kernel, as the engine's rows show."""
    assert can_use(weight("SSM_SCAN", shape, scan=scan), CUDA) is wanted
    assert can_use(weight("SSM_SCAN", shape, scan=scan), HOST_BACKEND)


@pytest.mark.parametrize(
    ("op", "shape", "type_", "wanted"),
    [
        ("SSM_CONV", (4, 512), "f32", True),
        ("SSM_CONV", (4, 500), "f32", False),
        ("SSM_CONV", (4, 64), "f32", False),
        ("MUL_MAT", (256, 64), "tq1_0", False),
        ("MUL_MAT", (256, 64), "tq2_0", False),
        ("MUL_MAT", (256, 64), "q4_K", True),
        ("MUL_MAT", (256, 64), "bf16", True),
        ("MUL_MAT_ID", (256, 64, 8), "tq1_0", False),
        ("MUL_MAT_ID", (256, 64, 8), "mxfp4", True),
        ("MUL", (256,), "bf16", False),
        ("MUL", (256,), "f16", True),
        ("ADD", (256,), "bf16", False),
        ("ADD", (256,), "f32", True),
        ("DIV", (256,), "bf16", False),
        ("DIV", (256,), "f16", True),
        ("GET_ROWS", (288, 1000), "iq4_nl", False),
        ("GET_ROWS", (512, 1000), "iq4_nl", True),
        ("GET_ROWS", (288, 1000), "mxfp4", False),
        ("GET_ROWS", (288, 1000), "q8_0", True),
        ("GET_ROWS", (256, 1000), "tq1_0", False),
        ("ROPE", (64,), "bf16", True),
        ("NONE", (64,), "tq1_0", True),
        ("ADD_ID", (64, 8), "bf16", True),
    ],
)
def test_what_cuda_can_use(op: str, shape: tuple[int, ...], type_: str, wanted: bool) -> None:
    """Odd convolutions, matrices and rows of types without a kernel, norms and biases of bf16 are not CUDA's."""
    assert can_use(weight(op, shape, type_), CUDA) is wanted


Asked = tuple[str, tuple[tuple[str, Extents], ...]]


def asked(of: Weight) -> list[Asked]:
    """The questions that a device is asked about a weight: each an operation, and its sources."""
    seen: list[Asked] = []

    def note(node: Node, src: Sequence[Node]) -> bool:
        seen.append((node.type.name, tuple((t.type.name, t.ne) for t in src)))
        return True

    assert can_use(of, Backend("any", 1, conditions={of.op: note}))
    return seen


def f32(*ne: int) -> tuple[str, Extents]:
    a, b, c, d = (*ne, 1, 1, 1)[:4]
    return "f32", (a, b, c, d)


@pytest.mark.parametrize(
    ("of", "sources"),
    [
        (weight("GET_ROWS", (64, 99), "q8_0"), (("q8_0", (64, 99, 1, 1)), ("i32", (512, 1, 1, 1)))),
        (weight("SSM_CONV", (4, 256)), (f32(515, 256, 3), f32(4, 256))),
        (
            weight("SSM_SCAN", (1, 80), scan=(128, 64, 80, 8)),
            (
                f32(128, 64, 80, 3), f32(64, 80, 512, 3), f32(80, 512, 3), f32(1, 80),
                f32(128, 8, 512, 3), f32(128, 8, 512, 3),
            ),
        ),
        # The type alone decides, so that all matrices of a type are one question.
        (weight("MUL_MAT", (256, 64), "q4_K"), (("q4_K", (1, 1, 1, 1)), f32(1, 512))),
        (weight("MUL_MAT_ID", (256, 64, 8), "f16"), (("f16", (1, 1, 1, 1)), f32(1, 1, 512), ("i32", (1, 512, 1, 1)))),
        (weight("ADD", (64,), "bf16"), (f32(1), ("bf16", (1, 1, 1, 1)))),
        (weight("MUL", (64,), "f16"), (f32(1), ("f16", (1, 1, 1, 1)))),
        (weight("DIV", (64,), "f16"), (f32(1), ("f16", (1, 1, 1, 1)))),
    ],
)  # fmt: skip
def test_a_device_is_asked_with_512_tokens_of_3_sequences(
    of: Weight, sources: tuple[tuple[str, Extents], ...]
) -> None:
    """The sources of the made-up operation are the engine's (llama-model-loader.cpp:946-1026), its result f32."""
    assert asked(of) == [("f32", sources)]


@pytest.mark.parametrize("op", ["ROPE", "ADD_ID", "NONE", "IM2COL"])
def test_other_operations_are_not_asked_about(op: str) -> None:
    """A device runs the other operations whatever the weight, so it is not asked."""
    assert asked(weight(op, (64, 32))) == []


def test_a_weight_that_its_card_cannot_use_is_placed_on_the_host() -> None:
    """Of a model on a card only the weights without a kernel, and the embeddings, are in host memory."""
    model = dense(2, weight_type="tq1_0")
    placed = place(model, [gpu()], Settings())
    on = {w.tensor.name: d for w, d in zip(model.weights, placed.weights, strict=True)}
    assert on["blk.1.attn_q.weight"] == on["output.weight"] == HOST
    assert on["blk.1.attn_norm.weight"] == on["output_norm.weight"] == 0
