"""DeepSeek V3.2 and GLM 5: latent attention over the cells that an indexer chooses.

Layers without an indexer see the cells that the layer before them saw. Source: models/deepseek32.cpp, models/glm-dsa.cpp.
"""

from __future__ import annotations

from ..._ggml.ops import Unbuildable
from ..context import GraphContext
from ..indexer import attend_best, best_cells, indexed_input
from ..latent import absorbed, compressed, low_rank, sizes, split
from ..parts import embeddings, logits, norm, output_rows, positions, product, select
from .deepseek2 import feed_forward


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = embeddings(g, scale=False)
    s, default = sizes(g), "sigmoid" if g.model.architecture == "glm-dsa" else ""
    pos, index, rows = positions(g), indexed_input(g), output_rows(g)
    best = None
    for il in g.layers:
        h = norm(g, x, "attn_norm", il)
        row = low_rank(g, h, il)
        if any(c.kind == "indexer" for c in g.layer(il).caches):
            best = best_cells(g, index, h, row, pos, il)
        if best is None:
            raise Unbuildable("the first layer has no indexer")
        nope, pe = split(g, product(g, row, "attn_q_b", il=il), s, g.n_head())
        latent, k_pe = compressed(g, h, il, s)
        q, k, v = absorbed(g, nope, g.rope(pe, pos), latent, g.rope(k_pe, pos), il)
        h = attend_best(g, index.kv, q, k, v, best, il, v_mla=g.w("attn_v_b.weight", il))
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        h = feed_forward(g, norm(g, x, "ffn_norm", il), il, default, scales=True)
        x = g.end_layer(g.add(h, x))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(logits(g, x, bias=False, scale=False), "result_output"))
