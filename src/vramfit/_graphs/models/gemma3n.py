"""Gemma 3n: four streams of hidden states of which one is worked on (AltUp), a low-rank path (LAuReL).

Source: models/gemma3n.cpp.
"""

from __future__ import annotations

from typing import Final

from ..._ggml.graph import Tensor
from ..._llama.model import Model
from ..attention import Windowed, attend, windowed_input
from ..context import GraphContext
from ..parts import embeddings, linear, logits, norm, output_rows, positions, qkv, wide
from ..per_layer import per_layer_inputs, slice_of

STREAMS: Final = 4  # n_altup; the first is the one that is worked on
WIDTH: Final = 256  # n_embd_altup
SPARSE: Final = 10  # layers whose gates keep the largest elements only


def traits(model: Model, il: int) -> bool:
    """Whether a layer's gate is sparse."""
    return il < SPARSE


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = g.scale(embeddings(g))
    pos, kv = positions(g), windowed_input(g)
    own = per_layer_inputs(g, x, WIDTH)
    others = g.mul_mat(g.need("altup_proj.weight"), g.repeat(x, g.n_embd, g.n_tokens, STREAMS - 1))
    x = g.concat(x, _as_long_as(g, others, x), 2)
    for il in g.layers:
        guess = _predicted(g, x, il)
        active = slice_of(g, guess, 0)
        h = norm(g, active, "attn_norm", il)
        low = _low_rank(g, h, il)
        h = g.add(norm(g, _attention(g, kv, h, pos, il), "post_attention_norm", il), active)
        both = g.scale(g.add(h, low))
        h = _feed_forward(g, norm(g, both, "ffn_norm", il), il)
        h = g.add(norm(g, h, "post_ffw_norm", il, pinned=False), both)
        x = _corrected(g, guess, h, il)
        first = _with_own(g, slice_of(g, x, 0), slice_of(g, own, il), il)
        x = g.end_layer(g.concat(slice_of(g, x, 0), g.add(_others(g, x), first), 2))
    x = g.get_rows(_merged(g, x), output_rows(g))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    x = g.scale(g.tanh(g.scale(logits(g, x, bias=False))))
    g.expand(g.output(x, "result_output"))


def _plain(g: GraphContext, x: Tensor, name: str, il: int) -> Tensor:
    return linear(g, x, name, il, scale=False, bias=False)


def _attention(g: GraphContext, kv: Windowed, x: Tensor, pos: Tensor, il: int) -> Tensor:
    """Attention over the layer's cache, or over that of an earlier layer."""
    head, n_head = g.head_k(), g.n_head()
    if g.layer(il).caches:
        q, k, v = qkv(g, x, il, head=head)
        q, k = norm(g, q, "attn_q_norm", il), norm(g, k, "attn_k_norm", il)
        return attend(g, kv, g.rope(q, pos), g.rope(k, pos), g.rms_norm(v), il, bias=False)
    if g.has("attn_qkv.weight", il):
        both = _plain(g, x, "attn_qkv", il)
        q = g.cont(g.view(both, (head * n_head, g.n_tokens), both.nb[1:2]))
    else:
        q = _plain(g, x, "attn_q", il)
    q = norm(g, wide(g, q, head, n_head), "attn_q_norm", il)
    return attend(g, kv, g.rope(q, pos), None, None, il, bias=False)


def _low_rank(g: GraphContext, x: Tensor, il: int) -> Tensor:
    t = _plain(g, _plain(g, x, "laurel_l", il), "laurel_r", il)
    return g.add(norm(g, t, "laurel_post_norm", il), x)


def _feed_forward(g: GraphContext, x: Tensor, il: int) -> Tensor:
    up, gate = _plain(g, x, "ffn_up", il), _plain(g, x, "ffn_gate", il)
    if il < SPARSE:
        mean = g.mean(gate)
        deviation = g.sqrt(g.scale(g.sum_rows(g.sqr(g.sub(gate, mean)))))
        gate = g.relu(g.sub(gate, g.add(mean, g.scale(deviation))))
    return _plain(g, g.mul(up, g.gelu(gate)), "ffn_down", il)


def _with_own(g: GraphContext, x: Tensor, own: Tensor, il: int) -> Tensor:
    """What the layer's own embedding makes of the stream that was worked on."""
    h = g.gelu(_plain(g, g.mul(x, g.need("altup_correct_scale.weight", il)), "inp_gate", il))
    return norm(g, _plain(g, g.mul(h, own), "proj", il), "post_norm", il)


# --- streams


def _length(g: GraphContext, x: Tensor) -> Tensor:
    return g.sqrt(g.sum_rows(g.sqr(x)))


def _as_long_as(g: GraphContext, x: Tensor, like: Tensor) -> Tensor:
    return g.div(g.mul(x, _length(g, like)), _length(g, x))


def _others(g: GraphContext, x: Tensor) -> Tensor:
    """All streams but the first."""
    return g.view(x, (*x.ne[:2], STREAMS - 1), x.nb[1:3], x.nb[2])


def _router(g: GraphContext, x: Tensor, il: int) -> Tensor:
    h = g.scale(norm(g, x, "altup_router_norm", il))
    return g.tanh(g.mul_mat(g.need("altup_router.weight", il), h))


def _predicted(g: GraphContext, x: Tensor, il: int) -> Tensor:
    """What the streams will be, each a mixture of all."""
    mixing = _plain(g, _router(g, slice_of(g, x, 0), il), "altup_predict_coef", il)
    mixing = g.reshape(mixing, STREAMS, STREAMS, g.n_tokens)
    mixed = g.mul_mat(g.cont(g.permute(x, 1, 2, 0, 3)), mixing)
    return g.add(g.cont(g.permute(mixed, 0, 2, 1, 3)), x)


def _corrected(g: GraphContext, guess: Tensor, x: Tensor, il: int) -> Tensor:
    """The prediction, corrected by what became of the first stream."""
    strength = g.scale(_plain(g, _router(g, x, il), "altup_correct_coef", il))
    strength = g.cont(g.transpose(strength), 1, g.n_tokens, STREAMS)
    news = g.repeat(g.sub(x, slice_of(g, guess, 0)), g.n_embd, g.n_tokens, STREAMS)
    return g.add(g.mul(news, strength), guess)


def _merged(g: GraphContext, x: Tensor) -> Tensor:
    """The mean of all streams."""
    others = g.mul_mat(g.need("altup_unembd_proj.weight"), _others(g, x))
    others = _as_long_as(g, others, slice_of(g, x, 0))
    y = slice_of(g, x, 0)
    for i in range(STREAMS - 1):
        y = g.add(y, slice_of(g, others, i))
    return g.scale(y)
