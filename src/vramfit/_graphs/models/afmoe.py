"""Trinity (AFM MoE): gated attention, norms before and behind each part. Source: models/afmoe.cpp."""

from __future__ import annotations

from ..._ggml.graph import Tensor
from ..._ggml.ops import Unbuildable
from ..._llama.model import Model
from ..attention import attend, windowed_input
from ..context import GraphContext
from ..decoder import finish
from ..experts import gating, routed, shared
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, linear, norm, output_rows, positions, qkv, select


def traits(_: Model, il: int) -> bool:
    """Whether the layer rotates."""
    return (il + 1) % 4 != 0


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    if not any(g.is_swa(il) for il in g.known.trunk):
        raise Unbuildable("the engine builds it with windows alone")
    x = g.scale(embeddings(g))
    pos, kv, rows = positions(g), windowed_input(g), output_rows(g)
    for il in g.layers:
        n = norm(g, x, "attn_norm", il)
        q, k, v = qkv(g, n, il)
        q, k = norm(g, q, "attn_q_norm", il), norm(g, k, "attn_k_norm", il)
        if traits(g.model, il):
            q, k = g.rope(q, pos), g.rope(k, pos)
        h = attend(g, kv, q, k, v, il, out=None)
        h = g.mul(h, g.sigmoid(g.mul_mat(g.need("attn_gate.weight", il), n)))
        h = norm(g, linear(g, h, "attn_output", il, bias=False), "post_attention_norm", il)
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        h = _feed_forward(g, norm(g, x, "ffn_norm", il), il)
        x = g.end_layer(g.add(norm(g, h, "post_ffw_norm", il), x))
    finish(g, x)


def _feed_forward(g: GraphContext, x: Tensor, il: int) -> Tensor:
    """A dense network, or experts, beside a shared one where there is one."""
    if not g.has("ffn_gate_inp.weight", il):
        return ffn(g, x, il, biases=False)
    h = routed(g, x, il, gating(g, "sigmoid"))
    return g.add(h, shared(g, x, il)) if g.has("ffn_up_shexp.weight", il) else h
