"""Qwen4 (experimental): several residual streams, delta nets, attention to chosen blocks, embeddings of n-grams.

Source: models/qwen4exp.cpp.
"""

from __future__ import annotations

from collections.abc import Hashable

from ..._ggml.graph import Tensor, contiguous
from ..._ggml.ops import F32, I32, Unbuildable
from ..._llama.model import Model
from ..attention import Kv, kv_input
from ..block_choice import Blocks, attend_chosen, blocks_input, choose_cells
from ..context import GraphContext
from ..delta_net import conv_window
from ..parts import embeddings, linear, logits, output_rows, positions
from ..qwen_next import gated_attention, mixture, recurrent
from ..recurrent import Rs, is_first_recurrent, rs_input


def traits(model: Model, il: int) -> Hashable:
    """Whether n-grams are added before a layer, and whether it is the first with a state."""
    return _has_n_grams(model, il), is_first_recurrent(model, il)


def _has_n_grams(model: Model, il: int) -> bool:
    found = model.hparams.get("ple.layers")
    return isinstance(found, (list, tuple)) and il in found


def build(g: GraphContext) -> None:
    """Append the graph."""
    if g.head_k() != g.head_v() or g.n("ssm.inner_size") != g.n("ssm.state_size") * g.n("ssm.time_step_rank"):
        raise Unbuildable("heads of keys and of values differ")
    x = embeddings(g, scale=False)
    rs, kv, pos, rows = rs_input(g), kv_input(g), positions(g, 4), output_rows(g)
    blocks: dict[int, Blocks] = {}
    grams = _n_grams(g)
    n_streams = g.n("hyper_connection.count")
    x = g.repeat(g.reshape(x, g.n_embd, 1, g.n_tokens), g.n_embd, n_streams, g.n_tokens)
    for il in g.layers:
        if grams is not None and _has_n_grams(g.model, il):
            x = _add_n_grams(g, rs, grams, x, il)
        h, inject = _mixed(g, x, "hc_attn", il)
        g.expand(h)
        if g.is_recurrent(il):
            h = recurrent(g, rs, h, il, act="sigmoid", copies=True)
        else:
            h = _attention(g, kv, h, pos, il, blocks)
        if g.is_last(il):
            h, inject = g.get_rows(h, rows), g.get_rows(inject, rows)
            flat = g.get_rows(g.reshape(x, g.n_embd * n_streams, x.ne[2]), rows)
            x = g.reshape(flat, g.n_embd, n_streams, flat.ne[1])
        x = _spread(g, x, h, inject, il)
        h, inject = _mixed(g, x, "hc_ffn", il)
        x = g.end_layer(g.pin(_spread(g, x, mixture(g, h, il), inject, il), il))
    y, _ = _collapsed(g, x, "output_hc", None)
    y = g.output(y, "result_norm")
    g.expand(g.output(logits(g, y, bias=False), "result_output"))


def _attention(g: GraphContext, kv: Kv, x: Tensor, pos: Tensor, il: int, blocks: dict[int, Blocks]) -> Tensor:
    """Attention to chosen blocks, where the layer has such."""
    size = g.n("attention.compress_ratios", 0, il)
    if size <= 0:
        return gated_attention(g, kv, x, pos, il, biases=False)
    if size not in blocks:
        blocks[size] = blocks_input(g, kv.mask, size)
    chosen = choose_cells(g, blocks[size], x, pos, kv.mask, il)

    def attends(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend_chosen(g, kv, q, k, v, chosen, il)

    return gated_attention(g, kv, x, pos, il, biases=False, attends=attends)


# --- streams


def _grouped_norm(g: GraphContext, x: Tensor, name: str, il: int | None) -> Tensor:
    """Each stream normed, with a weight for each; the file may hold the weights in one row."""
    weight = g.need(f"{name}.weight", il)
    weight.ne = (g.n_embd, x.ne[1], 1, 1)
    weight.nb = contiguous(weight.type, weight.ne)
    return g.mul(g.rms_norm(x), weight)


def _mixed(g: GraphContext, x: Tensor, name: str, il: int) -> tuple[Tensor, Tensor]:
    """What a part of a layer reads, and how much of its result each stream gets (build_hc_mix)."""
    mixed, normed = _collapsed(g, x, name, il)
    return mixed, linear(g, normed, f"{name}_inject", il, scale=False, bias=False)


def _collapsed(g: GraphContext, x: Tensor, name: str, il: int | None) -> tuple[Tensor, Tensor]:
    """The mean of the gated streams, and the normed streams in rows."""
    shape = x.ne[:3]
    n_embd, count, n = shape
    normed = g.reshape(_grouped_norm(g, x, f"{name}_norm", il), n_embd * count, n)
    low = linear(g, normed, f"{name}_down", il, scale=False, bias=False)
    gate = linear(g, g.silu(g.scale(low)), f"{name}_up", il, scale=False, bias=False)
    if il is not None and g.fuses("dsv4_hc_pre"):
        parts = g.reshape(normed, *shape), g.reshape(gate, *shape)
        return g.fused(g.of("DSV4_HC_PRE", (n_embd, n), *parts), il, "dsv4_hc_pre"), normed
    gated = g.reshape(g.mul(normed, g.sigmoid(gate)), *shape)
    views = [g.view(gated, (n_embd, n), gated.nb[2:3], i * gated.nb[1]) for i in range(count)]
    total = g.cont(views[0])
    for view in views[1:]:
        total = g.add(total, view)
    return g.scale(total), normed


def _spread(g: GraphContext, x: Tensor, y: Tensor, inject: Tensor, il: int) -> Tensor:
    """The streams with their parts of a result (build_hc_combine)."""
    n_embd, count, n = x.ne[:3]
    weights = g.scale(g.sigmoid(g.scale(inject)))
    if g.fuses("dsv4_hc_post"):
        return g.fused(g.of("DSV4_HC_POST", (n_embd, count, n), y, x, weights), il, "dsv4_hc_post")
    weights = g.reshape(weights, 1, count, n)
    y = g.repeat(g.reshape(y, n_embd, 1, n), n_embd, count, n)
    return g.add(x, g.mul(y, weights))


# --- n-grams


def _n_grams(g: GraphContext) -> Tensor | None:
    """What a table says of the n-grams that end with each token (build_inp_ple)."""
    if not g.has("per_layer_token_embd.weight"):
        return None
    n_heads = (g.n("ple.ngram_size") - 1) * g.n("ple.heads_per_ngram")
    ids = g.input("ple_rows", I32, n_heads * g.n_tokens)
    t = g.get_rows(g.need("per_layer_token_embd.weight"), ids)
    return g.expand(g.reshape(t, g.n("embedding_length_per_layer_input") * n_heads, g.n_tokens))


def _add_n_grams(g: GraphContext, rs: Rs, grams: Tensor, x: Tensor, il: int) -> Tensor:
    """The streams with what the n-grams are worth to each (build_ple)."""
    shape = x.ne[:3]
    n_embd, count, n = shape
    key = linear(g, grams, "ple_key", il, scale=False, bias=False)
    value = linear(g, grams, "ple_value", il, scale=False, bias=False)
    key = _grouped_norm(g, g.reshape(key, *shape), "ple_norm_key", il)
    query = _grouped_norm(g, g.reshape(x, *shape), "ple_norm_query", il)
    match = g.scale(g.sum_rows(g.mul(key, query)))
    size = g.sqrt(g.clamp(g.unary("abs", match)))
    gate = g.sigmoid(g.mul(g.unary("sgn", match), size))
    gated = g.mul(g.repeat(g.reshape(value, n_embd, 1, n), *shape), gate)
    flat = g.reshape(gated, n_embd * count, n)
    normed = _grouped_norm(g, g.reshape(flat, *shape), "ple_norm_conv", il)
    normed = g.reshape(normed, n_embd * count, n)
    spread = g.silu(_dilated(g, rs, normed, il))
    return g.add(x, g.add(gated, g.reshape(g.cont(spread), *shape)))


def _dilated(g: GraphContext, rs: Rs, x: Tensor, il: int) -> Tensor:
    """A convolution over tokens that are an n-gram apart, as a sum of shifted copies."""
    kernel, step = g.n("ple.conv_kernel"), g.n("ple.ngram_size")
    channels, n, seqs = x.ne[0], g.n_seq_tokens, g.n_seqs
    window = conv_window(
        g, rs, g.reshape(x, channels, n, seqs), g.state(il, 2), (kernel - 1) * step, copies=True
    )
    weights, total = g.need("ple_conv1d.weight", il), None
    for i in range(kernel):
        part = g.view(window, (n, channels, seqs), window.nb[1:3], i * step * window.nb[0])
        part = g.cont(g.transpose(part))
        weight = g.cont(g.view(weights, (1, channels), weights.nb[1:2], i * weights.nb[0]))
        weight = g.reshape(weight, channels)
        part = g.mul(part, weight if weight.type is F32 else g.cast(weight, F32))
        total = part if total is None else g.add(total, part)
    if total is None:
        raise Unbuildable("a convolution over nothing")
    return total
