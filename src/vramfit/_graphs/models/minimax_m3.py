"""MiniMax M3: attention over the best blocks of positions behind the first layers. Source: models/minimax-m3.cpp."""

from __future__ import annotations

from ..._ggml.graph import Tensor
from ..._ggml.ops import Unbuildable
from ..._llama.model import Model
from ..attention import attend, kv_input
from ..blocks import attend_blocks, blocks_input
from ..context import GraphContext
from ..experts import gating
from ..feed_forward import ffn, moe
from ..parts import embeddings, linear, logits, norm, output_rows, positions, qkv, select


def traits(model: Model, il: int) -> object:
    """Whether it is the first layer with an indexer, where the mask turns up that all such layers read."""
    return il == next((x.index for x in model.layers if any(c.kind == "indexer" for c in x.caches)), None)


def build(g: GraphContext) -> None:
    """Append the graph."""
    if g.head_k() != g.head_v():
        raise Unbuildable(f"heads of {g.head_k()} and {g.head_v()} elements")
    x = embeddings(g, scale=False)
    pos, kv = positions(g), kv_input(g)
    blocks, rows = blocks_input(g, kv), output_rows(g)
    for il in g.layers:
        h = norm(g, x, "attn_norm", il)
        q, k, v = qkv(g, h, il)
        q = g.rope(norm(g, q, "attn_q_norm", il), pos)
        k = g.rope(norm(g, k, "attn_k_norm", il), pos)
        if blocks is None or not g.has("indexer.q_proj.weight", il):
            h = attend(g, kv, q, k, v, il, bias=False)
        else:
            h = linear(g, attend_blocks(g, kv, blocks, h, q, k, v, pos, il), "attn_output", il, bias=False)
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        x = g.end_layer(g.add(_feed_forward(g, norm(g, x, "ffn_norm", il), il), x))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(logits(g, x, bias=False), "result_output"))


def _feed_forward(g: GraphContext, h: Tensor, il: int) -> Tensor:
    act = "swiglu_oai"
    if not g.has("ffn_gate_inp.weight", il):
        return ffn(g, h, il, act=act, biases=False)
    experts = moe(
        g, h, il,
        gating=gating(g),
        norm=bool(g.hp("expert_weights_norm")),
        scale=g.hp("expert_weights_scale"),
        act=act,
        bias="exp_probs_b.bias",
    )  # fmt: skip
    up, gate, down = "ffn_up_shexp", "ffn_gate_shexp", "ffn_down_shexp"
    return g.add(experts, ffn(g, h, il, act=act, up=up, gate=gate, down=down, biases=False))
