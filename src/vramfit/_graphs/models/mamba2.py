"""Mamba and Mamba 2: states and no attention. Source: models/mamba2.cpp, models/mamba.cpp."""

from __future__ import annotations

from ..context import GraphContext
from ..parts import embeddings, logits, norm, output_rows, select
from ..recurrent import mamba, mamba2, rs_input


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = embeddings(g)
    rs, rows = rs_input(g), output_rows(g)
    for il in g.layers:
        h = norm(g, x, "attn_norm", il)
        if g.model.architecture == "mamba2":
            h = mamba2(g, rs, h, il)
        else:
            h = mamba(g, rs, h, il, dt_b_c_norm=bool(g.hp("ssm.dt_b_c_rms")))
        h, x = select(g, rows, il, h, x)
        x = g.end_layer(g.add(h, x))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(logits(g, x), "result_output"))
