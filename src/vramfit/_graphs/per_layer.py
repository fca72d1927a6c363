"""Append the embeddings that each layer of Gemma's small models has of its own.

Source: `build_inp_per_layer` and `project_per_layer_inputs` in models/gemma3n.cpp and models/gemma4.cpp.
"""

from __future__ import annotations

from .._ggml.graph import Tensor
from .._ggml.ops import I32
from .context import GraphContext
from .parts import norm

__all__ = ["per_layer_inputs", "slice_of"]


def per_layer_inputs(g: GraphContext, x: Tensor, width: int) -> Tensor:
    """Make what each layer adds for each token: [width, n_tokens, n_layer], from a table and from `x`."""
    tokens = g.input("inp_per_layer_tokens", I32, g.n_tokens)
    shape = (width, g.n_layer, g.n_tokens)
    own = g.scale(g.reshape(g.get_rows(g.need("per_layer_token_embd.weight"), tokens), *shape))
    g.expand(own)
    y = g.reshape(g.scale(g.mul_mat(g.need("per_layer_model_proj.weight"), x)), *shape)
    y = g.scale(g.add(norm(g, y, "per_layer_proj_norm"), own))
    return g.cont(g.permute(y, 0, 2, 1, 3))


def slice_of(g: GraphContext, t: Tensor, i: int) -> Tensor:
    """View the matrix `i` along the third extent."""
    return g.view(t, t.ne[:2], t.nb[1:2], i * t.nb[2])
