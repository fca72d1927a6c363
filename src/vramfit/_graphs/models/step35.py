"""Step 3.5: gates by head, limited units, more heads in layers with a window. Source: models/step35.cpp."""

from __future__ import annotations

from ..._ggml.graph import Tensor
from ..attention import Windowed, attend, windowed_input
from ..context import GraphContext
from ..decoder import finish, head_gate, norm_if
from ..experts import gating, routed, shared
from ..feed_forward import NO_LIMIT, ffn
from ..parts import embeddings, flat_qkv, linear, norm, output_rows, positions, rope_factors, wide


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = embeddings(g)
    pos, kv, rows = positions(g), windowed_input(g), output_rows(g)
    for il in g.layers:
        x = g.add(attention(g, kv, norm(g, x, "attn_norm", il), pos, il), x)
        x = g.end_layer(g.add(feed_forward(g, norm(g, x, "ffn_norm", il), il), x))
    finish(g, g.get_rows(g.output(x, "h_nextn"), rows))


def attention(g: GraphContext, kv: Windowed, h: Tensor, pos: Tensor, il: int) -> Tensor:
    """Attention whose result is weighed by head where the layer has a gate."""
    q, k, v = _heads(g, h, il)
    q, k = norm_if(g, q, "attn_q_norm", il), norm_if(g, k, "attn_k_norm", il)
    factors = None if g.is_swa(il) else rope_factors(g, il)
    a = attend(g, kv, g.rope(q, pos, factors), g.rope(k, pos, factors), v, il, out=None)
    if g.has("attn_gate.weight", il):
        gate = g.sigmoid(g.mul_mat(g.need("attn_gate.weight", il), h))
        a = head_gate(g, a, gate, g.head_v())
    return linear(g, a, "attn_output", il, bias=False)


def _heads(g: GraphContext, x: Tensor, il: int) -> tuple[Tensor, Tensor, Tensor]:
    n, n_kv, head_k, head_v = g.n_head(il), g.n_head_kv(il), g.head_k(), g.head_v()
    q, k, v = flat_qkv(g, x, il, (n * head_k, n_kv * head_k, n_kv * head_v))
    return wide(g, q, head_k, n), wide(g, k, head_k, n_kv), wide(g, v, head_v, n_kv)


def feed_forward(g: GraphContext, x: Tensor, il: int) -> Tensor:
    """A dense network, or experts beside a shared one; each kind has a limit of its own in some layers."""
    dense = "steps" if g.hp("swiglu_clamp_shexp", 0, il) > NO_LIMIT else ""
    if not g.has("ffn_gate_inp.weight", il):
        return ffn(g, x, il, clamp=dense)
    clamp = "steps" if g.hp("swiglu_clamp_exp", 0, il) > NO_LIMIT else ""
    h = routed(g, x, il, gating(g, "sigmoid"), clamp=clamp)
    return g.add(h, shared(g, x, il, clamp=dense))
