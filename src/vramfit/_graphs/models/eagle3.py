"""Eagle 3: a draft of one layer, which reads a token beside what the target model says. Source: models/eagle3.cpp."""

from __future__ import annotations

from ..._ggml.ops import F32, Unbuildable
from ..._llama.model import Home
from ..attention import attend, kv_input
from ..context import GraphContext
from ..drafts import draft_logits, draft_tokens, own_matrix
from ..feed_forward import ffn
from ..parts import norm, positions, product, rope_factors, wide


def build(g: GraphContext) -> None:
    """Append the graph."""
    head, n_head, n_kv = g.head_v(), g.n_head(), g.n_head_kv()
    if head != g.head_k() or g.n_layer != 1:
        raise Unbuildable(f"{g.n_layer} layers with heads of {g.head_k()} and {head} elements")
    token = draft_tokens(g)[1]
    said = g.input("inp_embd", F32, g.n_embd, g.n_tokens)
    pos, kv = positions(g), kv_input(g)
    (il,) = g.layers
    normed = norm(g, said, "attn_norm_2", il, pinned=False)
    x = g.concat(norm(g, token, "attn_norm", il), normed, 0)
    q, k, v = (
        wide(g, product(g, x, f"attn_{c}", il=il), head, n)
        for c, n in (("q", n_head), ("k", n_kv), ("v", n_kv))
    )
    factors = rope_factors(g, il)
    h = attend(g, kv, g.rope(q, pos, factors), g.rope(k, pos, factors), v, il, scale=False, bias=False)
    x = g.add(h, normed if g.hp("norm_before_residual") else said)
    x = g.end_layer(g.add(ffn(g, norm(g, x, "ffn_norm", il), il, biases=False), x))
    x = norm(g, g.output(x, "h_nextn"), "output_norm")
    x = draft_logits(g, g.mul_mat(own_matrix(g, "output.weight", Home.OUTPUT), x))
    g.expand(g.output(x, "result_output"))
