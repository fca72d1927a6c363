"""Append RWKV's layers, which mix each token with the one before it, and with a state.

In: a `GraphContext`, the input of a layer. Out: the layer's result.
A layer's first state holds the last tokens of its norms, the second one the state of its heads.
Source: models/rwkv6-base.cpp, models/rwkv7-base.cpp, `build_rwkv_token_shift_*` (llama-graph.cpp:3582-3617).
"""

from __future__ import annotations

from collections.abc import Callable

from .._ggml.graph import Tensor
from .._ggml.ops import Unbuildable
from .context import GraphContext
from .feed_forward import ffn
from .parts import embeddings, linear, logits, norm, output_rows, select
from .recurrent import Rs, read_state, rs_input, write_state

__all__ = ["mixed_in_channels", "mixed_in_networks", "normed_embeddings", "time_mix_6", "time_mix_7"]

TimeMix = Callable[[Rs, Tensor, Tensor, int], Tensor]  # states, tokens, those before them, layer -> result
Channels = Callable[[Tensor, Tensor, int], Tensor]  # tokens, those before them, layer -> result


# --- models


def normed_embeddings(g: GraphContext) -> Tensor:
    """Append the embeddings and a norm, which the engine counts to layer 0."""
    x = g.pin(g.norm(embeddings(g, scale=False)), 0)
    return g.add(g.mul(x, g.need("token_embd_norm.weight")), g.need("token_embd_norm.bias"))


def mixed_in_channels(g: GraphContext, time_mix: TimeMix, channels: Channels, rescale: int = 0) -> None:
    """Append a model whose feed-forward network mixes tokens, too; every `rescale` layers the result is halved."""
    if g.n("token_shift_count", 2) != 2:
        raise Unbuildable(f"{g.n('token_shift_count')} tokens are shifted, not two")
    x, rs, rows = normed_embeddings(g), rs_input(g), output_rows(g)
    for il in g.layers:
        x = g.reshape(x, g.n_embd, g.n_seq_tokens, g.n_seqs)
        kept = _load_shift(g, rs, il, 2)
        shape = (g.n_embd, 1, g.n_seqs)
        before = [g.view(kept, shape, kept.nb[1:3], i * g.n_embd * kept.nb[0]) for i in (0, 1)]
        h = norm(g, x, "attn_norm", il, "norm")
        x = g.add(time_mix(rs, h, _shifted(g, before[0], h), il), x)
        h2 = norm(g, x, "attn_norm_2", il, "norm")
        shifted = _shifted(g, before[1], h2)
        _store_shift(g, g.concat(_last(g, h), _last(g, h2), 1), il)
        x, h2, shifted = (g.reshape(t, g.n_embd, g.n_tokens) for t in (x, h2, shifted))
        x, h2, shifted = select(g, rows, il, x, h2, shifted)
        x = g.add(channels(h2, shifted, il), x)
        x = g.end_layer(g.scale(x) if rescale and (il + 1) % rescale == 0 else x)
    _finish(g, x, "norm")


def mixed_in_networks(g: GraphContext, time_mix: TimeMix) -> None:
    """Append a model with plain feed-forward networks, made of one with attention."""
    if g.model.layers[0].states[0] != g.n_embd:
        raise Unbuildable(f"{g.model.layers[0].states[0]} elements are kept, not one token")
    x, rs, rows = embeddings(g, scale=False), rs_input(g), output_rows(g)
    for il in g.layers:
        x = g.reshape(x, g.n_embd, g.n_seq_tokens, g.n_seqs)
        kept = _load_shift(g, rs, il, g.n("token_shift_count", 2))
        h = norm(g, x, "attn_norm", il)
        y = time_mix(rs, h, _shifted(g, kept, h), il)
        _store_shift(g, _last(g, h), il)
        x = g.reshape(g.add(y, x), g.n_embd, g.n_tokens)
        (x,) = select(g, rows, il, x)
        h = norm(g, x, "ffn_norm", il)
        x = g.end_layer(g.add(ffn(g, h, il, biases=False), x))
    _finish(g, x, "rms_norm")


def _finish(g: GraphContext, x: Tensor, kind: str) -> None:
    x = g.output(norm(g, x, "output_norm", kind=kind), "result_norm")
    g.expand(g.output(logits(g, x, bias=False), "result_output"))


# --- the tokens before


def _load_shift(g: GraphContext, rs: Rs, il: int, count: int) -> Tensor:
    return g.reshape(read_state(g, rs, g.state(il, 0)), g.n_embd, count, g.n_seqs)


def _store_shift(g: GraphContext, t: Tensor, il: int) -> None:
    count = g.n("token_shift_count", 2)
    write_state(g, g.view(t, (g.n_embd * g.n_seqs * count,)), g.state(il, 0))


def _shifted(g: GraphContext, before: Tensor, x: Tensor) -> Tensor:
    """Return each token's predecessor."""
    but_last = g.view(x, (g.n_embd, g.n_seq_tokens - 1, g.n_seqs), x.nb[1:3])
    return g.concat(before, but_last, 1)


def _last(g: GraphContext, x: Tensor) -> Tensor:
    at = (g.n_seq_tokens - 1) * g.n_embd * x.nb[0]
    return g.view(x, (g.n_embd, 1, g.n_seqs), x.nb[1:3], at)


# --- mixing


def _product(g: GraphContext, x: Tensor, name: str, il: int) -> Tensor:
    """Append a projection, without the scale that the engine does not hand on."""
    return linear(g, x, name, il, scale=False)


def _matrix(g: GraphContext, x: Tensor, name: str, il: int) -> Tensor:
    return g.mul_mat(g.need(f"{name}.weight", il), x)


def _planes(g: GraphContext, t: Tensor, count: int) -> list[Tensor]:
    """View matrices that lie one behind the other."""
    size = g.n_embd * g.n_tokens * t.nb[0]
    return [g.view(t, (g.n_embd, g.n_tokens), t.nb[1:2], i * size) for i in range(count)]


def _heads(g: GraphContext) -> tuple[int, int]:
    size = g.n("wkv.head_size")
    if size < 1 or g.n_embd % size:
        raise Unbuildable(f"{g.n_embd} channels in heads of {size}")
    return size, g.n_embd // size


def _advance(g: GraphContext, rs: Rs, il: int, op: str, *sources: Tensor) -> Tensor:
    """Advance the state of the heads by the batch, and keep it: return the result of all tokens in one row."""
    size, n_head = _heads(g)
    states = g.state(il, 1)
    state = read_state(g, rs, states)
    both = g.of(op, (size * n_head, g.n_tokens + size * g.n_seqs), *sources, state)
    n = g.n_embd * g.n_tokens
    write_state(g, g.view(both, (g.n_embd * size * g.n_seqs,), (), n * both.nb[0]), states)
    return g.view(both, (n,))


def _normed_heads(g: GraphContext, y: Tensor, il: int) -> Tensor:
    """Norm heads one by one, if the model has norms."""
    size, n_head = _heads(g)
    weight, bias = g.w("time_mix_ln.weight", il), g.w("time_mix_ln.bias", il)
    if weight is None or bias is None:
        return g.reshape(y, g.n_embd, g.n_tokens)
    y = g.norm(g.reshape(y, size, n_head, g.n_tokens))
    return g.add(g.mul(g.reshape(y, g.n_embd, g.n_tokens), weight), bias)


def time_mix_6(g: GraphContext, rs: Rs, x: Tensor, before: Tensor, il: int) -> Tensor:
    """Mix tokens by decays that depend on them (build_rwkv6_time_mix); without `time_mix_first` a linear attention."""
    size, n_head = _heads(g)
    w, k, v, r, gate = _mixtures_6(g, x, before, il)
    r, k, v, gate = (
        _product(g, t, f"time_mix_{name}", il)
        for t, name in ((r, "receptance"), (k, "key"), (v, "value"), (gate, "gate"))
    )
    first = g.w("time_mix_first.weight", il)
    gate = g.sigmoid(gate) if first is None else g.silu(gate)
    n_kv = g.n_head_kv(il)
    if n_kv not in (0, n_head):
        if n_head % n_kv:
            raise Unbuildable(f"{n_head} heads for {n_kv} of keys")
        k, v = (
            g.repeat(g.reshape(t, size, 1, n_kv, g.n_tokens), size, n_head // n_kv, n_kv, g.n_tokens)
            for t in (k, v)
        )
    k, v, r = (g.reshape(t, size, n_head, g.n_tokens) for t in (k, v, r))
    w = _matrix(g, g.tanh(_matrix(g, w, "time_mix_decay_w1", il)), "time_mix_decay_w2", il)
    w = g.exp(g.neg(g.exp(g.add(w, g.need("time_mix_decay.weight", il)))))
    w = g.reshape(w, size, n_head, g.n_tokens)
    if first is None:
        y = _advance(g, rs, il, "GATED_LINEAR_ATTN", g.sub(k, g.mul(k, w)), v, r, w)
        y = g.reshape(y, g.n_embd, g.n_tokens)
    else:
        y = _normed_heads(g, _advance(g, rs, il, "RWKV_WKV6", k, v, r, first, w), il)
    y = _product(g, g.mul(y, gate), "time_mix_output", il)
    return g.reshape(y, g.n_embd, g.n_seq_tokens, g.n_seqs)


def _mixtures_6(g: GraphContext, x: Tensor, before: Tensor, il: int) -> list[Tensor]:
    """Make five mixtures of each token and the one before it: for decays, keys, values, receptance and gate."""
    n_embd, n = g.n_embd, g.n_tokens
    change = g.reshape(g.sub(before, x), n_embd, n)
    x = g.reshape(x, n_embd, n)
    t = g.add(g.mul(change, g.need("time_mix_lerp_x.weight", il)), x)
    w1, w2 = g.need("time_mix_w1.weight", il), g.need("time_mix_w2.weight", il)
    t = g.reshape(g.tanh(g.mul_mat(w1, t)), w1.ne[1] // 5, 1, 5, n)
    t = g.cont(g.permute(t, 0, 1, 3, 2))
    t = g.mul_mat(g.reshape(w2, w2.ne[0], w2.ne[1], 1, 5), t)
    fused = g.w("time_mix_lerp_fused.weight", il)
    if fused is not None:
        change, x = g.reshape(change, n_embd, 1, n), g.reshape(x, n_embd, 1, n)
        return _planes(g, g.add(g.mul(g.add(t, fused), change), x), 5)
    lerps = [g.need(f"time_mix_lerp_{name}.weight", il) for name in "wkvrg"]
    return [
        g.add(g.mul(g.add(part, lerp), change), x) for part, lerp in zip(_planes(g, t, 5), lerps, strict=True)
    ]


def time_mix_7(
    g: GraphContext, rs: Rs, x: Tensor, before: Tensor, il: int, first_value: list[Tensor]
) -> Tensor:
    """Mix tokens by a state that is rotated, too (build_rwkv7_time_mix).

    `first_value` takes the values of the first layer, which later ones add a part of.
    """
    size, n_head = _heads(g)
    gated = g.has("time_mix_g1.weight", il) and g.has("time_mix_g2.weight", il)
    count = 6 if gated else 5
    change = g.repeat(g.sub(before, x), g.n_embd, g.n_seq_tokens, g.n_seqs, count)
    mixed = g.add(g.mul(change, g.need("time_mix_lerp_fused.weight", il)), x)
    r, w, k, v, a, *rest = _planes(g, mixed, count)
    v_in = v
    r, k, v = (
        linear(g, t, f"time_mix_{name}", il, scale=False, bias=False)
        for t, name in ((r, "receptance"), (k, "key"), (v, "value"))
    )
    w = g.add(_low_rank(g, w, "w", il, act=g.tanh), g.need("time_mix_w0.weight", il))
    w = g.exp(g.scale(g.sigmoid(w)))
    if first_value:
        part = g.sigmoid(g.add(_low_rank(g, v_in, "v", il), g.need("time_mix_v0.weight", il)))
        v = g.add(v, g.mul(g.sub(first_value[0], v), part))
    else:
        first_value.append(v)
    a = g.sigmoid(g.add(_low_rank(g, a, "a", il), g.need("time_mix_a0.weight", il)))
    shape = (size, n_head, g.n_tokens)
    kk = g.l2_norm(g.reshape(g.mul(k, g.need("time_mix_k_k.weight", il)), *shape))
    ka = g.mul(k, g.need("time_mix_k_a.weight", il))
    k = g.add(k, g.sub(g.mul(a, ka), ka))
    r, w, k, v, a = (g.reshape(t, *shape) for t in (r, w, k, v, a))
    y = _advance(g, rs, il, "RWKV_WKV7", r, w, k, v, g.neg(kk), g.mul(kk, a))
    y = _normed_heads(g, y, il)
    bonus = g.mul(g.mul(k, r), g.reshape(g.need("time_mix_r_k.weight", il), size, n_head))
    y = g.add(y, g.reshape(g.mul(v, g.sum_rows(bonus)), g.n_embd, g.n_tokens))
    if gated:
        y = g.mul(y, _low_rank(g, rest[0], "g", il, act=g.sigmoid))
    y = linear(g, y, "time_mix_output", il, scale=False, bias=False)
    return g.reshape(y, g.n_embd, g.n_seq_tokens, g.n_seqs)


def _low_rank(
    g: GraphContext, x: Tensor, name: str, il: int, *, act: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Multiply by two matrices with few rows between them."""
    h = _matrix(g, x, f"time_mix_{name}1", il)
    return _matrix(g, h if act is None else act(h), f"time_mix_{name}2", il)
