"""DFlash: a draft that guesses a block of tokens at once, DSpark's with a Markov head; DeepSeek V4's is built like it.

Source: models/dflash.cpp. A batch of tokens; those of a target's states only fill the caches.
"""

from __future__ import annotations

from ..._ggml.graph import Tensor
from ..._ggml.ops import Unbuildable
from ..attention import Kv, Windowed, attend, kv_input, windowed_input
from ..context import GraphContext
from ..drafts import draft_logits, draft_tokens, markov_head, selector, windowed_sum
from ..feed_forward import ffn
from ..parts import linear, logits, norm, positions, wide
from . import deepseek4


def build(g: GraphContext) -> None:
    """Append the graph."""
    if g.n("hyper_connection.count") > 0:
        tokens, x = deepseek4.draft(g)
        state, x = g.output(x, "result_embd"), norm(g, x, "output_norm")
    else:
        tokens, x = _layers(g)
        state = x = g.output(norm(g, x, "output_norm"), "result_norm")
    x = logits(g, x, bias=False)
    chooses = g.has("selector_hidden.weight")
    x = g.expand(draft_logits(g, _limited(g, x) if chooses else x))
    if g.has("markov_w1.weight"):
        better = markov_head(g, tokens, x, state)
        if better is not None:
            if better.sureness is not None:
                g.expand(g.output(better.sureness, "h_nextn"))
            x = g.expand(better.logits)
    g.output(x, "result_output")
    if chooses:
        g.expand(g.output(selector(g, tokens, x, state), "h_nextn"))


def _layers(g: GraphContext) -> tuple[Tensor, Tensor]:
    """The tokens, and what the last layer makes of them."""
    if g.head_k() != g.head_v():
        raise Unbuildable(f"heads of {g.head_k()} and {g.head_v()} elements")
    pos = positions(g, 4 if g.hp("rope.dimension_sections", il=0) > 0 else 1)
    kv = windowed_input(g) if g.n("attention.sliding_window") else kv_input(g)
    tokens, x = draft_tokens(g)
    if g.hp("embedding_scale"):
        x = g.scale(x)
    for il in g.layers:
        h, attn = _convolved(g, norm(g, x, "attn_norm", il), "attn", il)
        h = _attention(g, kv, h, pos, il)
        if g.hp("attention.value_scale"):
            h = g.scale(h)
        h = _again(g, h, attn, "attn", il)
        x = g.add(_maybe_normed(g, h, "post_attention_norm", il), x)
        h, network = _convolved(g, norm(g, x, "ffn_norm", il), "ffn", il)
        h = ffn(g, h, il, act=_activation(g), biases=False, scales=True)
        h = _maybe_normed(g, _again(g, h, network, "ffn", il), "post_ffw_norm", il)
        h, scale = g.add(h, x), g.w("layer_output_scale.weight", il)
        x = g.end_layer(h if scale is None else g.mul(h, scale))
    return tokens, x


def _activation(g: GraphContext) -> str:
    return "gelu" if str(g.model.hparams.get("hidden_activation", "")).startswith("gelu") else "silu"


def _maybe_normed(g: GraphContext, x: Tensor, name: str, il: int) -> Tensor:
    return norm(g, x, name, il) if g.has(f"{name}.weight", il) else x


def _convolved(g: GraphContext, x: Tensor, part: str, il: int) -> tuple[Tensor, Tensor | None]:
    """The input of a part behind a convolution, where the layer has one, and what its weights depend on."""
    if not g.has(f"{part}_conv_proj.weight", il):
        return x, None
    coefficients = g.mul_mat(g.need(f"{part}_conv_proj.weight", il), x)
    return windowed_sum(g, x, coefficients, g.need(f"{part}_conv_base", il), 0), coefficients


def _again(g: GraphContext, x: Tensor, coefficients: Tensor | None, part: str, il: int) -> Tensor:
    """The result of a part behind the second half of its convolution."""
    if coefficients is None:
        return x
    return windowed_sum(g, x, coefficients, g.need(f"{part}_conv_base", il), 1)


def _attention(g: GraphContext, kv: Kv | Windowed, x: Tensor, pos: Tensor, il: int) -> Tensor:
    head, n_kv = g.head_v(), g.n_head_kv()
    factors = None if g.hp("rope.dimension_sections", il=0) > 0 else g.w("rope_freqs.weight", 0)
    q = norm(g, wide(g, linear(g, x, "attn_q", il, bias=False), head, g.n_head()), "attn_q_norm", il)
    key = linear(g, x, "attn_k", il, bias=False)
    k = norm(g, wide(g, key, head, n_kv), "attn_k_norm", il)
    if g.has("attn_v.weight", il):
        v = wide(g, linear(g, x, "attn_v", il, bias=False), head, n_kv)
    else:
        v = g.rms_norm(wide(g, key, head, n_kv))
    q, k = g.rope(q, pos, factors), g.rope(k, pos, factors)
    return attend(g, kv, q, k, v, il, bias=False, sinks=g.w("attn_sinks.weight", il))


def _limited(g: GraphContext, x: Tensor) -> Tensor:
    """Logits as the target model would change them."""
    if g.hp("logit_scale"):
        x = g.scale(x)
    return g.scale(g.tanh(g.scale(x))) if g.hp("final_logit_softcapping") > 0 else x
