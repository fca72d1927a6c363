"""Qwen 3 VL and Qwen 3 TTS: the first layers take in embeddings of deeper layers. Source: models/qwen3vl.cpp."""

from __future__ import annotations

from ..._ggml.graph import Tensor
from ..._ggml.ops import Unbuildable
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import logits, norm
from ..qwen_vl import decoder, takes_deeper

traits = takes_deeper


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = decoder(g, lambda x, il: ffn(g, x, il, biases=False))
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
