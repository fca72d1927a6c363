"""BERT and its kin: norms behind each part, learned positions, rotary ones or biased scores. Source: models/bert.cpp."""

from __future__ import annotations

from typing import Final

from ..._ggml.graph import Tensor
from ..._llama.model import Model
from ..attention import attend, bare_input
from ..context import GraphContext
from ..feed_forward import ffn, moe
from ..parts import check_heads, embeddings, norm, output_rows, positions, qkv, select

_TURNED: Final = ("nomic-bert", "nomic-bert-moe", "jina-bert-v3")
_PLAIN: Final = ("bert", "nomic-bert-moe", "jina-bert-v3")  # no gate in the feed-forward


def build(g: GraphContext) -> None:
    """Append the graph."""
    check_heads(g, rotated=False)
    arch = g.model.architecture
    x = embeddings(g)
    pos, masks, rows = positions(g), bare_input(g, alibi=arch == "jina-bert-v2"), output_rows(g)
    types = g.w("token_types.weight")
    if types is not None:
        x = g.add(x, g.view(types, (g.n_embd,)))
    if arch == "bert":
        x = g.add(g.get_rows(g.need("position_embd.weight"), pos), x)
    x = norm(g, x, "token_embd_norm", kind="norm", beside=0)
    for il in g.layers:
        q, k, v = qkv(g, x, il)
        q, k = _whole_norm(g, q, "attn_q_norm", il), _whole_norm(g, k, "attn_k_norm", il)
        if arch in _TURNED:
            q, k = g.rope(q, pos), g.rope(k, pos)
        h = attend(g, masks, q, k, v, il)
        h, x = select(g, rows, il, h, x)
        h = norm(g, g.add(h, x), "attn_output_norm", il, "norm")
        if g.has("attn_norm_2.weight", il):
            h = norm(g, g.add(h, x), "attn_norm_2", il, "norm")
        x = g.end_layer(norm(g, g.add(_feed(g, h, il), h), "layer_output_norm", il, "norm"))
    g.expand(g.output(x, "result_embd"))


def traits(model: Model, il: int) -> bool:
    """Whether a layer is a mixture; only one of the kin reads which are."""
    if model.architecture != "nomic-bert-moe":
        return False
    every = model.hparams.get("moe_every_n_layers", 0)
    return isinstance(every, int) and every > 0 and il % every == 1


def _whole_norm(g: GraphContext, x: Tensor, name: str, il: int) -> Tensor:
    """A norm over all heads together, where the model has its weight."""
    if not g.has(f"{name}.weight", il):
        return x
    flat = g.reshape(x, x.ne[0] * x.ne[1], x.ne[2])
    return g.reshape(norm(g, flat, name, il, "norm"), *x.ne[:3])


def _feed(g: GraphContext, x: Tensor, il: int) -> Tensor:
    arch = g.model.architecture
    if traits(g.model, il):
        return moe(g, x, il, act="gelu", gate=None, norm=False)
    if arch in _PLAIN:
        return ffn(g, x, il, act="gelu", gate=None)
    if arch == "jina-bert-v2":
        gated = g.has("ffn_gate.weight", il)
        both = not gated and g.need("ffn_up.weight", il).ne[1] != g.layer().n_ff
        return ffn(g, x, il, act="geglu" if both else "gelu")
    return ffn(g, x, il, biases=False)
