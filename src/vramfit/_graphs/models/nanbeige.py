"""Nanbeige: the same layers run several times, with the last norm between. Source: models/nanbeige.cpp."""

from __future__ import annotations

from ..._llama.model import Model
from ..attention import attend, kv_input
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, logits, norm, output_rows, positions, qkv, rope_factors, select


def traits(model: Model, il: int) -> bool:
    """Whether a layer ends a round, with the norm behind it."""
    loops = model.hparams.get("num_loops", 1)
    if not isinstance(loops, int) or loops <= 1 or model.hparams.get("skip_loop_final_norm"):
        return False
    round_ = len(model.layers) // loops
    return (il + 1) % round_ == 0 and il + 1 < len(model.layers)


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    x = embeddings(g)
    pos, kv, rows = positions(g), kv_input(g), output_rows(g)
    for il in g.layers:
        h = norm(g, x, "attn_norm", il)
        block = g.layer(il).block
        factors = rope_factors(g, il if block is None else block)
        q, k, v = qkv(g, h, il)
        h = attend(g, kv, g.rope(q, pos, factors), g.rope(k, pos, factors), v, il)
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        x = g.steered(g.add(ffn(g, norm(g, x, "ffn_norm", il), il, scales=True), x))
        if traits(g.model, il):
            x = g.mul(g.pin(g.rms_norm(x), il), g.need("output_norm.weight"))
        g.end_layer(x, steers=False)
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(logits(g, x, bias=False), "result_output"))
