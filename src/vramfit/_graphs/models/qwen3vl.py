"""Qwen 3 VL and Qwen 3 TTS: the first layers take in embeddings of deeper layers. Source: models/qwen3vl.cpp."""

from __future__ import annotations

from collections.abc import Hashable

from ..._ggml.graph import Tensor
from ..._ggml.ops import Unbuildable
from ..._llama.model import Model
from ..attention import attend, kv_input
from ..context import GraphContext
from ..decoder import normed_rope
from ..feed_forward import ffn
from ..parts import check_heads, deeper, embeddings, logits, norm, output_rows, positions, qkv, select


def traits(model: Model, il: int) -> Hashable:
    """Whether the layer ends with embeddings of a deeper layer of the vision model."""
    n = model.hparams.get("n_deepstack_layers", 0)
    return isinstance(n, int) and il < n


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g)
    deep = g.n("n_deepstack_layers")
    x = first = embeddings(g, deepstack=deep)
    pos, kv, rows = positions(g, 4), kv_input(g), output_rows(g)
    for il in g.layers:
        q, k, v = qkv(g, norm(g, x, "attn_norm", il), il)
        q, k = normed_rope(g, q, k, pos, il)
        h, x = select(g, rows, il, attend(g, kv, q, k, v, il), x)
        x = g.add(h, x)
        x = g.add(ffn(g, norm(g, x, "ffn_norm", il), il, biases=False), x)
        x = g.end_layer(deeper(g, x, first, il + 1) if il < deep else x)
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(_padded(g, logits(g, x, bias=False)), "result_output"))


def _padded(g: GraphContext, x: Tensor) -> Tensor:
    """Logits behind as many of minus infinity as the output has less rows than the vocabulary: a codec's head."""
    n, n_vocab = x.ne[0], g.need("token_embd.weight").ne[1]
    if n > n_vocab:
        raise Unbuildable(f"{n} logits for {n_vocab} tokens")
    if n == n_vocab:
        return x
    none = g.scale(g.view(g.need("output_norm.weight"), (1,)))
    return g.concat(g.repeat(none, n_vocab - n, x.ne[1]), x, 0)
