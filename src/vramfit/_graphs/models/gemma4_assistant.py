"""Gemma 4's assistant, which keeps no keys: it reads the caches and the embeddings of the model that it drafts for.

Source: models/gemma4-assistant.cpp. The engine makes no context of it without that model's.
"""

from __future__ import annotations

from ..._ggml.graph import Tensor
from ..._ggml.ops import F32, I32, Unbuildable
from ..._llama.model import Home
from ..attention import Windowed, attend, windowed_input
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import norm, output_matrix, output_rows, positions, product, select, wide


def build(g: GraphContext) -> None:
    """Append the graph."""
    table = g.at("target.token_embd.weight", Home.INPUT)
    if table is None:
        raise Unbuildable("its layers read the caches of the model that it drafts for, which is not given")
    tokens = g.tokens = g.input("inp_tokens", I32, g.n_tokens)
    said = g.input("inp_h", F32, g.n("embedding_length_out"), g.n_tokens)
    x = g.concat(g.scale(g.get_rows(table, tokens)), said, 0)
    x = g.mul_mat(g.need("nextn.pre_projection.weight", 0), x)
    kv, pos, rows = windowed_input(g), positions(g), output_rows(g)
    for il in g.layers:
        h = _attention(g, kv, norm(g, x, "attn_norm", il), pos, il)
        h, x = select(g, rows, il, h, x)
        x = g.add(norm(g, h, "post_attention_norm", il), x)
        h = ffn(g, norm(g, x, "ffn_norm", il), il, act="gelu", biases=False)
        x = g.add(norm(g, h, "post_ffw_norm", il, pinned=False), x)
        x = g.end_layer(g.mul(x, g.need("layer_output_scale.weight", il)))
    x = norm(g, x, "output_norm")
    logits = g.output(g.mul_mat(output_matrix(g), x), "result_output")
    said = g.output(g.mul_mat(g.need("nextn.post_projection.weight"), x), "h_nextn")
    g.expand(logits)
    g.expand(said)


def _attention(g: GraphContext, kv: Windowed, x: Tensor, pos: Tensor, il: int) -> Tensor:
    """Queries over a cache that is another model's."""
    q = wide(g, product(g, x, "attn_q", il=il), g.head_k(il), g.n_head(il))
    factors = None if g.is_swa(il) else g.w("rope_freqs.weight", il)
    q = g.rope(norm(g, q, "attn_q_norm", il), pos, factors)
    return attend(g, kv, q, None, None, il, bias=False, scale=False)
