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
from .attention import attend, k_input, kv_input
from .context import GraphContext
from .decoder import has_sections, norm_if
from .experts import gating, routed, shared
from .feed_forward import ffn
from .latent import sizes
from .models import Builder, deepseek2, nemotron_h
from .parts import linear, logits, norm, output_rows, positions, qkv
from .qwen_next import gated_attention, mixture

__all__ = ["next_tokens_builder"]


def next_tokens_builder(architecture: str) -> Builder:
    """The builder of an architecture's blocks. Raises `Unbuildable` where there is none."""
    build = _BUILDERS.get(architecture)
    if build is None:
        raise Unbuildable(f"there is no graph of the next-token layers of {architecture} yet")
    return Builder(build)


def _begin(g: GraphContext) -> tuple[int, Tensor, Tensor]:
    """The block, the embeddings of the tokens, and what the model said."""
    if len(g.layers) != 1:
        raise Unbuildable(f"{len(g.layers)} next-token blocks: the engine runs one")
    (il,) = g.layers
    tokens = g.input("inp_tokens", I32, g.n_tokens)
    said = g.input("mtp_h_input", F32, g.n_embd, g.n_tokens)
    matrix = g.w("nextn.embed_tokens.weight", il)
    matrix = g.at("token_embd.weight", Home.INPUT) if matrix is None else matrix
    return il, g.get_rows(matrix if matrix is not None else g.need("token_embd.weight"), tokens), said


def _end(g: GraphContext, x: Tensor, il: int, rows: Tensor | None, kind: str) -> None:
    """Logits of the tokens that have an output, by the block's own head or the model's; `rows` are not selected yet."""
    own = g.has("nextn.shared_head_norm.weight", il)
    if own:
        x = norm(g, x, "nextn.shared_head_norm", il, kind, pinned=False)
    else:
        x = norm(g, x, "output_norm", kind=kind)
    x = g.output(x, "h_nextn")
    x = x if rows is None else g.get_rows(x, rows)
    head = g.w("nextn.shared_head_head.weight", il)
    x = logits(g, x, bias=False) if head is None else g.mul_mat(head, x)
    g.expand(g.output(x, "result_output"))


def _block(
    g: GraphContext,
    attention: Callable[[GraphContext, Tensor, int], Tensor],
    network: Callable[[GraphContext, Tensor, int], Tensor],
    second: str = "post_attention_norm",
    kind: str = "rms_norm",
    *,
    early: bool = False,
) -> None:
    """Both inputs side by side through a product, then a layer, then logits.

    `second` is the norm of the network, `kind` that of the last norm. `early`: only tokens that have an output go on behind
    attention.
    """
    il, embedded, said = _begin(g)
    rows = output_rows(g)
    said = norm(g, said, "nextn.hnorm", il)
    both = g.concat(norm(g, embedded, "nextn.enorm", il), said, 0)
    x = linear(g, both, "nextn.eh_proj", il, bias=False)
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
        return deepseek2.latent(g, kv, x, pos, None, il, s)

    def network(g: GraphContext, x: Tensor, il: int) -> Tensor:
        return deepseek2.feed_forward(g, x, il, "sigmoid", scales=g.model.architecture != "deepseek2")

    _block(g, attention, network, "ffn_norm")


def _nemotron(g: GraphContext) -> None:
    """Source: models/nemotron-h-moe.cpp:11. Its rows are selected between attention and the sum's network."""
    kv = kv_input(g)
    il, embedded, said = _begin(g)
    rows = output_rows(g)
    said = norm(g, said, "nextn.hnorm", il)
    both = g.concat(norm(g, embedded, "nextn.enorm", il), said, 0)
    x = linear(g, both, "nextn.eh_proj", il, bias=False)
    q, k, v = qkv(g, norm(g, x, "attn_norm", il), il, n_head=g.n_head(il), n_head_kv=g.n_head_kv(il))
    x = g.get_rows(g.add(attend(g, kv, q, k, v, il), x), rows)
    x = g.add(nemotron_h.experts(g, norm(g, x, "post_attention_norm", il), il), x)
    _end(g, g.end_layer(x), il, None, "norm")


_BUILDERS: Final[Mapping[str, Callable[[GraphContext], None]]] = MappingProxyType({
    "qwen35": _qwen, "qwen35moe": _qwen, "qwen3next": _qwen, "glm4moe": _glm4moe, "deepseek2": _deepseek2,
    "deepseek32": _deepseek2, "glm-dsa": _deepseek2, "nemotron_h_moe": _nemotron,
})  # fmt: skip
