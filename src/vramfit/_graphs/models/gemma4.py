"""Gemma 4: windows, layers that share caches, embeddings by layer, experts beside a dense network.

Source: models/gemma4.cpp.
"""

from __future__ import annotations

from ..._ggml.graph import Tensor
from ..._ggml.ops import Unbuildable
from ..attention import Windowed, attend, windowed_input
from ..context import GraphContext
from ..feed_forward import ffn, moe
from ..parts import embeddings, linear, logits, norm, output_rows, positions, wide
from ..per_layer import per_layer_inputs, slice_of


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = g.scale(embeddings(g))
    pos, kv, rows = positions(g), windowed_input(g), output_rows(g)
    width = g.n("embedding_length_per_layer_input")
    own = per_layer_inputs(g, x, width) if g.has("per_layer_token_embd.weight") else None
    for il in g.layers:
        h = _attention(g, kv, norm(g, x, "attn_norm", il), pos, il)
        x = g.add(norm(g, h, "post_attention_norm", il), x)
        h = _experts(g, x, il) if g.has("ffn_gate_inp.weight", il) else _dense(g, x, il)
        x = g.add(norm(g, h, "post_ffw_norm", il, pinned=False), x)
        if own is not None:
            h = g.gelu(linear(g, x, "inp_gate", il, scale=False, bias=False))
            h = linear(g, g.mul(h, slice_of(g, own, il)), "proj", il, scale=False, bias=False)
            x = g.add(x, norm(g, h, "post_norm", il))
        scale = g.w("layer_output_scale.weight", il)
        x = g.end_layer(x if scale is None else g.mul(x, scale))
    x = g.output(norm(g, x, "output_norm"), "h_nextn")
    x = g.output(g.get_rows(x, rows), "result_norm")
    x = logits(g, x, bias=False)
    if g.hp("final_logit_softcapping", 30):
        x = g.scale(g.tanh(g.scale(x)))
    g.expand(g.output(x, "result_output"))


def _attention(g: GraphContext, kv: Windowed, x: Tensor, pos: Tensor, il: int) -> Tensor:
    """Attention over the layer's cache, or over that of an earlier layer; without a matrix for V it is K."""
    head, n_head, n_kv = g.head_k(il), g.n_head(il), g.n_head_kv(il)
    if head != g.head_v(il):
        raise Unbuildable(f"keys of {head} and values of {g.head_v(il)} elements")
    factors = None if g.is_swa(il) else g.w("rope_freqs.weight", il)
    both = linear(g, x, "attn_qkv", il, bias=False) if g.has("attn_qkv.weight", il) else None

    def rows(name: str, at: int, n: int) -> Tensor:
        if both is None:
            return linear(g, x, name, il, bias=False)
        return g.cont(g.view(both, (head * n, g.n_tokens), both.nb[1:2], at * head * both.nb[0]))

    q = wide(g, rows("attn_q", 0, n_head), head, n_head)
    q = g.rope(norm(g, q, "attn_q_norm", il), pos, factors)
    if not g.layer(il).caches:
        return attend(g, kv, q, None, None, il, bias=False)
    k = rows("attn_k", n_head, n_kv)
    v = k if both is None and not g.has("attn_v.weight", il) else rows("attn_v", n_head + n_kv, n_kv)
    k = norm(g, wide(g, k, head, n_kv), "attn_k_norm", il)
    v = g.rms_norm(wide(g, v, head, n_kv))
    return attend(g, kv, q, g.rope(k, pos, factors), v, il, bias=False)


def _dense(g: GraphContext, x: Tensor, il: int) -> Tensor:
    return ffn(g, norm(g, x, "ffn_norm", il), il, act="gelu", biases=False, scales=True)


def _experts(g: GraphContext, x: Tensor, il: int) -> Tensor:
    """A dense network and a mixture side by side, each between norms; the router reads neither norm."""
    shared = norm(g, _dense(g, x, il), "post_ffw_norm_1", il)
    router = g.mul(g.scale(g.rms_norm(x)), g.need("ffn_gate_inp.scale", il))
    chances = linear(g, router, "ffn_gate_inp", il, scale=False, bias=False)
    h = norm(g, x, "pre_ffw_norm_2", il)
    h = moe(g, h, il, act="gelu", gate_up="ffn_gate_up_exps", scales=True, logits_in=chances)
    return g.add(shared, norm(g, h, "post_ffw_norm_2", il))
