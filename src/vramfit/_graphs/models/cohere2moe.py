"""Command A with experts. Source: models/cohere2moe.cpp."""

from __future__ import annotations

from ..._ggml.graph import Tensor
from ..._llama.model import Model
from ..attention import Windowed, attend, windowed_input
from ..context import GraphContext
from ..experts import gating, routed, shared
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, logits, norm, output_rows, positions, qkv, rope_factors


def traits(model: Model, il: int) -> bool:
    """Whether the layer is one of the first, which rotate in any case."""
    n = model.hparams.get("leading_dense_block_count", 0)
    return isinstance(n, int) and il < n


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    kind = norm_kind(g)
    x = embeddings(g)
    pos, kv, rows = positions(g), windowed_input(g), output_rows(g)
    for il in g.layers:
        x = g.end_layer(layer(g, kv, x, pos, il, rotates=g.is_swa(il) or traits(g.model, il)))
    x = g.output(norm(g, x, "output_norm", kind=kind), "h_nextn")
    x = g.output(g.get_rows(x, rows), "result_norm")
    x = logits(g, x, bias=False, scale=False)
    g.expand(g.output(g.scale(x) if g.hp("logit_scale") else x, "result_output"))


def norm_kind(g: GraphContext) -> str:
    """Whether norms centre: they do not where the header has an epsilon for such."""
    return "rms_norm" if g.hp("attention.layer_norm_rms_epsilon") else "norm"


def layer(g: GraphContext, kv: Windowed, x: Tensor, pos: Tensor, il: int, *, rotates: bool) -> Tensor:
    """One layer, up to where it ends: attention and network side by side."""
    n = norm(g, x, "attn_norm", il, norm_kind(g))
    q, k, v = qkv(g, n, il)
    if rotates:
        factors = rope_factors(g, il)
        q, k = g.rope(q, pos, factors), g.rope(k, pos, factors)
    h = attend(g, kv, q, k, v, il)
    return g.add(g.add(_feed_forward(g, n, il), x), h)


def _feed_forward(g: GraphContext, x: Tensor, il: int) -> Tensor:
    """A dense network, or experts and the mean with a shared one."""
    if not g.has("ffn_gate_inp.weight", il):
        return ffn(g, x, il, biases=False, scales=True)
    h = routed(g, x, il, gating(g, "sigmoid"), bias=None, gate_up="ffn_gate_up_exps", scales=True)
    if not g.has("ffn_up_shexp.weight", il):
        return h
    return g.scale(g.add(h, shared(g, x, il, scales=True)))
