"""Qwen3.5: delta nets, and gated attention in every fourth layer; dense or a mixture.

Source: models/qwen35.cpp, models/qwen35moe.cpp.
"""

from __future__ import annotations

from ..._ggml.ops import Unbuildable
from ..._llama.model import Model
from ..attention import kv_input
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import embeddings, norm, output_rows, positions
from ..qwen_next import finish, gated_attention, mixture, recurrent
from ..recurrent import is_first_recurrent, rs_input


def traits(model: Model, il: int) -> bool:
    """Whether a layer is the first with a state."""
    return is_first_recurrent(model, il)


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = embeddings(g)
    rs, kv, pos, rows = rs_input(g), kv_input(g), positions(g, 4), output_rows(g)
    has_experts = g.model.architecture == "qwen35moe"
    for il in g.layers:
        if g.has("ffn_gate_inp.weight", il) != has_experts:
            raise Unbuildable(
                f"layer {il} of {g.model.architecture} has the wrong kind of feed-forward network"
            )
        h = g.expand(norm(g, x, "attn_norm", il))
        h = recurrent(g, rs, h, il) if g.is_recurrent(il) else gated_attention(g, kv, h, pos, il)
        x = g.add(h, x)
        h = norm(g, x, "post_attention_norm", il)
        h = mixture(g, h, il) if has_experts else ffn(g, h, il, biases=False, scales=True)
        x = g.end_layer(g.add(h, x))
    finish(g, x, rows)
