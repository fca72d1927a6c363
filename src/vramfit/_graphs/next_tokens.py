"""Next-token-prediction blocks: they read a token and what the model said of the one before, and propose the next one.

In: a `GraphContext` of a model whose only layers to run are these (see `speculation.next_tokens`). The engine makes a context
of their own for them (LLAMA_CONTEXT_TYPE_MTP). Source: `graph_mtp` of src/models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from .._ggml.graph import Tensor
from .._ggml.ops import F32, I32, Unbuildable
from .._llama.model import Home
from .attention import attend, k_input, kv_input, windowed_input
from .context import GraphContext
from .decoder import has_sections, norm_if
from .experts import gating, routed, shared
from .feed_forward import ffn
from .hyper import head, n_streams, spread
from .latent import sizes
from .models import Builder, bailingmoe3, cohere2moe, deepseek2, deepseek4, hy_v3, mimo2, nemotron_h, step35
from .parts import check_heads, linear, logits, norm, output_rows, positions, qkv
from .qwen_next import gated_attention, mixture

__all__ = ["FAMILIES", "next_tokens_builder"]


def next_tokens_builder(architecture: str) -> Builder:
    """The builder of an architecture's blocks. Raises `Unbuildable` where there is none."""
    build = _BUILDERS.get(architecture)
    if build is None:
        raise Unbuildable(f"the engine has no graph of the next-token layers of {architecture}")
    return Builder(build)


def _begin(g: GraphContext, *, wide: int = 1, shares: bool = True) -> tuple[int, Tensor, Tensor]:
    """The block, the embeddings of the tokens, and what the model said: `wide` rows of it for each token.

    Not `shares`: the block has no embeddings of its own. Raises `Unbuildable` where the engine runs one block and there are more.
    """
    blocks = sum(bool(x.caches) for x in g.model.layers)
    if blocks != 1 and g.model.architecture not in _SEVERAL:
        raise Unbuildable(f"{blocks} next-token blocks: the engine runs one")
    (il,) = g.layers
    tokens = g.input("inp_tokens", I32, g.n_tokens)
    said = g.input("mtp_h_input", F32, g.n_embd * wide, g.n_tokens)
    matrix = g.w("nextn.embed_tokens.weight", il) if shares else None
    matrix = g.at("token_embd.weight", Home.INPUT) if matrix is None else matrix
    return il, g.get_rows(matrix if matrix is not None else g.need("token_embd.weight"), tokens), said


def _joined(
    g: GraphContext, il: int, embedded: Tensor, said: Tensor, kind: str = "rms_norm", *, scale: bool = True
) -> Tensor:
    """Both inputs normed, side by side, through a product (`scale`: with its scale)."""
    said = norm(g, said, "nextn.hnorm", il, kind)
    both = g.concat(norm(g, embedded, "nextn.enorm", il, kind), said, 0)
    return linear(g, both, "nextn.eh_proj", il, scale=scale, bias=False)


def _last_norm(g: GraphContext, x: Tensor, il: int, kind: str, *more: str) -> Tensor:
    """The block's own norm, by the first of its names that it has, or the model's."""
    for name in ("nextn.shared_head_norm", *more):
        if g.has(f"{name}.weight", il):
            return norm(g, x, name, il, kind, pinned=False)
    return norm(g, x, "output_norm", kind=kind)


def _propose(g: GraphContext, x: Tensor, il: int, *, own: bool = True, other: bool = True) -> Tensor:
    """Logits, by the block's own head or the model's; `own`, `other`: whether it has its scale."""
    if g.has("nextn.shared_head_head.weight", il):
        return linear(g, x, "nextn.shared_head_head", il, scale=own, bias=False)
    return logits(g, x, bias=False, scale=other)


def _end(g: GraphContext, x: Tensor, il: int, rows: Tensor | None, kind: str, *, other: bool = True) -> None:
    """Logits of the tokens that have an output; `rows` are not selected yet, and are behind the last norm."""
    x = g.output(_last_norm(g, x, il, kind), "h_nextn")
    x = x if rows is None else g.get_rows(x, rows)
    g.expand(g.output(_propose(g, x, il, other=other), "result_output"))


def _end_of_chosen(g: GraphContext, x: Tensor, il: int, rows: Tensor, *more: str, scale: bool = True) -> None:
    """The same where rows are selected before the last norm."""
    x = g.output(g.get_rows(x, rows), "h_nextn")
    x = _last_norm(g, x, il, "rms_norm", *more)
    g.expand(g.output(_propose(g, x, il, own=scale, other=scale), "result_output"))


def _block(
    g: GraphContext,
    attention: Callable[[GraphContext, Tensor, int], Tensor],
    network: Callable[[GraphContext, Tensor, int], Tensor],
    second: str = "post_attention_norm",
    kind: str = "rms_norm",
    *,
    early: bool = False,
) -> None:
    """Both inputs through a layer, then logits.

    `second` is the norm of the network, `kind` that of the last norm. `early`: only tokens that have an output go on behind
    attention.
    """
    il, embedded, said = _begin(g)
    rows = output_rows(g)
    x = _joined(g, il, embedded, said)
    h = attention(g, norm(g, x, "attn_norm", il), il)
    if early:
        h, x = g.get_rows(h, rows), g.get_rows(x, rows)
    x = g.add(h, x)
    x = g.add(network(g, norm(g, x, second, il), il), x)
    _end(g, g.end_layer(x), il, None if early else rows, kind)


def _qwen(g: GraphContext) -> None:
    """Source: models/qwen35.cpp:486, models/qwen35moe.cpp:551, models/qwen3next.cpp:628."""
    older = g.model.architecture == "qwen3next"
    pos, kv = positions(g, 1 if older else 4), kv_input(g)

    def network(g: GraphContext, x: Tensor, il: int) -> Tensor:
        if g.has("ffn_gate_inp.weight", il):
            return mixture(g, x, il)
        return ffn(g, x, il, biases=False, scales=not older)

    _block(g, lambda g, x, il: gated_attention(g, kv, x, pos, il), network, early=older)


def _glm4moe(g: GraphContext) -> None:
    """Source: models/glm4-moe.cpp:132."""
    pos, kv = positions(g, 4 if has_sections(g) else 1), kv_input(g)

    def attention(g: GraphContext, x: Tensor, il: int) -> Tensor:
        q, k, v = qkv(g, x, il)
        q, k = norm_if(g, q, "attn_q_norm", il), norm_if(g, k, "attn_k_norm", il)
        return attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il, bias=False)

    def network(g: GraphContext, x: Tensor, il: int) -> Tensor:
        return g.add(routed(g, x, il, gating(g, "sigmoid")), shared(g, x, il))

    _block(g, attention, network)


def _deepseek2(g: GraphContext) -> None:
    """Latent attention with the key matrix folded in, and no indexer.

    Source: models/deepseek2.cpp:170, models/deepseek32.cpp:495, models/glm-dsa.cpp:539.
    """
    s = sizes(g)
    if s is None or not g.model.is_mla:
        raise Unbuildable("next-token layers without latent attention")
    pos, kv = positions(g), k_input(g)

    def attention(g: GraphContext, x: Tensor, il: int) -> Tensor:
        return deepseek2.latent(g, kv, x, pos, None, il, s, reshapes=False)

    def network(g: GraphContext, x: Tensor, il: int) -> Tensor:
        return deepseek2.feed_forward(g, x, il, "sigmoid", scales=g.model.architecture != "deepseek2")

    _block(g, attention, network, "ffn_norm")


def _nemotron(g: GraphContext) -> None:
    """Source: models/nemotron-h-moe.cpp:11. Its rows are selected between attention and the sum's network."""
    kv = kv_input(g)
    il, embedded, said = _begin(g)
    rows = output_rows(g)
    x = _joined(g, il, embedded, said)
    q, k, v = qkv(g, norm(g, x, "attn_norm", il), il, n_head=g.n_head(il), n_head_kv=g.n_head_kv(il))
    x = g.get_rows(g.add(attend(g, kv, q, k, v, il), x), rows)
    x = g.add(nemotron_h.experts(g, norm(g, x, "post_attention_norm", il), il), x)
    _end(g, g.end_layer(x), il, None, "norm")


def _step35(g: GraphContext) -> None:
    """Source: models/step35.cpp:368."""
    il, embedded, said = _begin(g)
    pos, kv = positions(g), windowed_input(g)
    x = _joined(g, il, embedded, said, scale=False)
    x = g.add(step35.attention(g, kv, norm(g, x, "attn_norm", il), pos, il), x)
    x = g.end_layer(g.add(step35.feed_forward(g, norm(g, x, "ffn_norm", il), il), x))
    _end_of_chosen(g, x, il, output_rows(g), scale=False)


def _mimo2(g: GraphContext) -> None:
    """Source: models/mimo2.cpp:272. Its norm is in older files that of the layer's end."""
    il, embedded, said = _begin(g)
    if not g.has("attn_qkv.weight", il):
        raise Unbuildable(
            "a next-token block with a matrix each for queries, keys and values: the engine stops at it"
        )
    pos, rows, kv = positions(g), output_rows(g), windowed_input(g)
    x = _joined(g, il, embedded, said)
    x = g.add(mimo2.attention(g, kv, norm(g, x, "attn_norm", il), pos, il, scales=True), x)
    for name in ("up", "gate", "down"):
        g.need(f"ffn_{name}.weight", il)
    x = g.end_layer(g.add(ffn(g, norm(g, x, "ffn_norm", il), il), x))
    _end_of_chosen(g, x, il, rows, "layer_output_norm")


def _hy_v3(g: GraphContext) -> None:
    """Source: models/hy-v3.cpp:239."""
    check_heads(g)
    il, embedded, said = _begin(g)
    pos, rows, kv = positions(g), output_rows(g), kv_input(g)
    x = hy_v3.layer(g, kv, _joined(g, il, embedded, said, scale=False), pos, il)
    _end(g, g.end_layer(x), il, rows, "rms_norm")


def _cohere2moe(g: GraphContext) -> None:
    """A layer that rotates in any case. Source: models/cohere2moe.cpp:291."""
    check_heads(g)
    il, embedded, said = _begin(g)
    kind = cohere2moe.norm_kind(g)
    g.need("ffn_gate_inp.weight", il)
    pos, rows, kv = positions(g), output_rows(g), windowed_input(g)
    x = _joined(g, il, embedded, said, kind)
    x = g.end_layer(cohere2moe.layer(g, kv, x, pos, il, rotates=True))
    x = g.get_rows(g.output(_last_norm(g, x, il, kind), "h_nextn"), rows)
    x = _propose(g, x, il, other=False)
    g.expand(g.output(g.scale(x) if g.hp("logit_scale") else x, "result_output"))


def _bailingmoe3(g: GraphContext) -> None:
    """Source: models/bailingmoe3.cpp:424."""
    il, embedded, said = _begin(g, shares=False)
    x = _joined(g, il, embedded, said, scale=False)
    pos, rows, kv = bailingmoe3.token_positions(g), output_rows(g), k_input(g)
    x = g.add(bailingmoe3.latent(g, kv, norm(g, x, "attn_norm", il), pos, il, sizes(g)), x)
    x = g.end_layer(g.add(bailingmoe3.feed_forward(g, norm(g, x, "ffn_norm", il), il), x))
    x = g.output(norm(g, x, "layer_output_norm", il, pinned=False), "h_nextn")
    x = logits(g, g.get_rows(x, rows), bias=False, scale=False)
    g.expand(g.output(x, "result_output"))


def _deepseek4(g: GraphContext) -> None:
    """Several residual streams, which all come from the model. Source: models/deepseek4.cpp:1362."""
    n = n_streams(g)
    il, embedded, said = _begin(g, wide=n)
    if g.n("attention.compress_ratios", 0, il) or g.has("ffn_gate_tid2eid.weight", il):
        raise Unbuildable("a next-token block that compresses keys, or chooses experts by the token")
    said = g.reshape(said, g.n_embd, n, g.n_tokens)
    pos, rows, window = positions(g), output_rows(g), windowed_input(g).window
    said = norm(g, said, "nextn.hnorm", il)
    embedded = norm(g, embedded, "nextn.enorm", il)
    both = g.concat(spread(g, embedded), said, 0)
    x = linear(g, both, "nextn.eh_proj", il, bias=False)
    x = g.end_layer(deepseek4.windowed_layer(g, window, x, pos, il))
    flat = g.output(g.get_rows(g.reshape(x, g.n_embd * n, g.n_tokens), rows), "h_nextn")
    x = head(g, g.reshape(flat, g.n_embd, n, g.n_outputs))
    x = g.output(_last_norm(g, x, il, "rms_norm"), "result_norm")
    g.expand(g.output(_propose(g, x, il, own=False, other=False), "result_output"))


_SEVERAL: Final = frozenset({"step35", "mimo2", "hy_v3"})  # which run one block after the other
_BUILDERS: Final[Mapping[str, Callable[[GraphContext], None]]] = MappingProxyType({
    "qwen35": _qwen, "qwen35moe": _qwen, "qwen3next": _qwen, "glm4moe": _glm4moe, "deepseek2": _deepseek2,
    "deepseek32": _deepseek2, "glm-dsa": _deepseek2, "nemotron_h_moe": _nemotron,
    "step35": _step35, "mimo2": _mimo2, "hy_v3": _hy_v3, "cohere2moe": _cohere2moe, "bailingmoe3": _bailingmoe3,
    "deepseek4": _deepseek4,
})  # fmt: skip

FAMILIES: Final = tuple(_BUILDERS)  # architectures that the engine runs such blocks of
