"""WavTokenizer's decoder: convolutions over the tokens, no layers that repeat. Source: models/wavtokenizer-dec.cpp."""

from __future__ import annotations

from typing import Final

from ..._ggml.graph import Tensor
from ..._ggml.ops import F16, F32, Unbuildable
from ..._llama.model import Model
from ..context import GraphContext
from ..parts import embeddings, linear, logits, norm

_STAGES: Final = ("residual", "residual", "attention", "residual", "residual", "norm")


def traits(model: Model, il: int) -> int:
    """Its stages are no layers of the model: none stands for another."""
    return il


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = _convolution(g, _turned(g, embeddings(g)), "conv1d")
    n = g.n("posnet.block_count")
    if n > len(_STAGES):
        raise Unbuildable(
            f"wavtokenizer-dec.posnet.block_count = {n}; the engine knows {len(_STAGES)} stages"
        )
    for i, stage in enumerate(_STAGES[:n]):
        x = _residual(g, x, i) if stage == "residual" else _stage(g, x, i, stage)
    x = _turned(g, norm(g, _turned(g, x), "token_embd_norm", kind="norm", beside=0))
    for i in range(g.n("convnext.block_count")):
        x = g.add(_next(g, x, f"convnext.{i}"), x)
    for _ in g.layers:
        g.end_layer(x)
    x = norm(g, _turned(g, x), "output_norm", kind="norm")
    g.expand(g.output(logits(g, x), "result_embd"))


def _turned(g: GraphContext, x: Tensor) -> Tensor:
    """Channels first, or tokens first."""
    return g.cont(g.transpose(x))


def _stage(g: GraphContext, x: Tensor, i: int, stage: str) -> Tensor:
    if stage == "norm":
        return _group_norm(g, x, f"posnet.{i}.attn_norm")
    h = _group_norm(g, x, f"posnet.{i}.attn_norm")
    q, k, v = (_convolution(g, h, f"posnet.{i}.attn_{c}") for c in "qkv")
    scores = g.soft_max(g.mul_mat(_turned(g, k), _turned(g, q)))
    h = _convolution(g, g.mul_mat(scores, v), f"posnet.{i}.attn_output")
    return g.add(h, x)


def _residual(g: GraphContext, x: Tensor, i: int) -> Tensor:
    h = x
    for n in "12":
        h = _group_norm(g, h, f"posnet.{i}.norm{n}")
        h = _convolution(g, g.mul(g.sigmoid(h), h), f"posnet.{i}.conv{n}")
    return g.add(h, x)


def _next(g: GraphContext, x: Tensor, name: str) -> Tensor:
    """A convolution of each channel alone, and two projections."""
    kernel = g.need(f"{name}.dw.weight")
    columns = _columns(g, kernel, g.reshape(x, x.ne[0], 1, x.ne[1], x.ne[2]))
    h = g.mul_mat(columns, kernel)
    h = g.add(g.reshape(h, h.ne[0], h.ne[2], 1), g.need(f"{name}.dw.bias"))
    h = norm(g, _turned(g, h), f"{name}.norm", kind="norm")
    h = g.gelu(linear(g, h, f"{name}.pw1", scale=False))
    h = g.mul(linear(g, h, f"{name}.pw2", scale=False), g.need(f"{name}.gamma.weight"))
    return _turned(g, h)


def _group_norm(g: GraphContext, x: Tensor, name: str) -> Tensor:
    h = g.pin(g.reshape(g.group_norm(g.reshape(x, x.ne[0], 1, x.ne[1])), *x.ne[:2]), 0)
    return g.add(g.mul(h, g.need(f"{name}.weight")), g.need(f"{name}.bias"))


def _convolution(g: GraphContext, x: Tensor, name: str) -> Tensor:
    """A convolution over the tokens, half of its kernel beyond each end, and its bias (ggml_conv_1d_ph)."""
    kernel = g.need(f"{name}.weight")
    columns = _columns(g, kernel, x)
    flat = g.reshape(columns, columns.ne[0], columns.ne[1] * columns.ne[2])
    h = g.mul_mat(flat, g.reshape(kernel, kernel.ne[0] * kernel.ne[1], kernel.ne[2]))
    return g.add(g.reshape(h, columns.ne[1], kernel.ne[2], columns.ne[2]), g.need(f"{name}.bias"))


def _columns(g: GraphContext, kernel: Tensor, x: Tensor) -> Tensor:
    """What each place of a kernel sees, side by side (ggml_im2col, ggml.c:4556)."""
    if x.ne[1] != kernel.ne[1]:
        raise Unbuildable(f"{kernel.name} is for {kernel.ne[1]} channels, and there are {x.ne[1]}")
    n = x.ne[0] + 2 * (kernel.ne[0] // 2) - kernel.ne[0] + 1
    return g.of(
        "IM2COL",
        (kernel.ne[1] * kernel.ne[0], n, x.ne[2], 1),
        kernel,
        x,
        type_=F32 if kernel.type.name == "bf16" else F16,
    )
