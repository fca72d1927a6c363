"""HRM-Text: a low and a high stack of layers that take turns, each on the sum of both. Source: models/hrm-text.cpp."""

from __future__ import annotations

from collections.abc import Hashable

from ..._ggml.graph import Tensor
from ..._ggml.ops import Unbuildable
from ..._llama.model import Model
from ..attention import Kv, attend, kv_input
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import embeddings, linear, logits, output_rows, positions, qkv


def _place(model: Model, il: int) -> tuple[bool, bool, bool]:
    """Whether a layer is the first of its stack, the last, and whether the stack is the high one."""
    size, cycles = (model.hparams.get(f"hrm.{key}") for key in ("layers_per_stack", "l_cycles"))
    if not isinstance(size, int) or not isinstance(cycles, int) or size < 1 or cycles < 1:
        raise Unbuildable(f"stacks of {size} layers, {cycles} low ones for a high one")
    return il % size == 0, (il + 1) % size == 0, il // size % (cycles + 1) == cycles


def traits(model: Model, il: int) -> Hashable:
    """Where in its stack a layer is, and in which."""
    return _place(model, il)


def build(g: GraphContext) -> None:
    """Append the graph."""
    high = embeddings(g, scale=True)
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    low, x = g.need("hrm.z_l_init"), high
    for il in g.layers:
        first, last, is_high = _place(g.model, il)
        x = _layer(g, kv, g.add(high, low) if first else x, pos, il)
        if last:
            x = g.rms_norm(x)
            high, low = (x, low) if is_high else (high, x)
        g.end_layer(x)
    x = g.output(g.get_rows(high, rows), "result_norm")
    g.expand(g.output(logits(g, x, bias=False), "result_output"))


def _layer(g: GraphContext, kv: Kv, x: Tensor, pos: Tensor, il: int) -> Tensor:
    """A layer with norms that have no weights, and a gate on attention."""
    h = g.rms_norm(x)
    gate = linear(g, h, "attn_gate", il, scale=False, bias=False)
    q, k, v = qkv(g, h, il, head=g.head_k())
    h = attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il, out=None)
    x = g.add(linear(g, g.mul(h, g.sigmoid(gate)), "attn_output", il, bias=False), x)
    return g.add(ffn(g, g.rms_norm(x), il, biases=False), x)
