"""DeepSeek V2 and V3, Kimi K2, Moonlight, GLM 4.7 Flash, Mistral 4, DeepSeek-OCR. Source: models/deepseek2.cpp.

Latent attention with the key matrix folded in where the header has the sizes for it, plain attention else.
"""

from __future__ import annotations

from ..._ggml.graph import Tensor
from ..._ggml.ops import Unbuildable
from ..attention import Kv, attend, k_input, kv_input
from ..context import GraphContext
from ..experts import gating, shared
from ..feed_forward import ffn, moe
from ..latent import Sizes, absorbed, compressed, decompressed, queries, sizes, split
from ..parts import embeddings, logits, norm, output_rows, positions, qkv, select, temperature, wide


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = embeddings(g, scale=False)
    s = None if g.model.architecture == "deepseek2-ocr" else sizes(g)  # its header's latent is not read
    default = "sigmoid" if _is_flash(g) else "softmax"
    factor = temperature(g) if s and g.hp("attention.temperature_scale") else None
    pos, kv, rows = positions(g), k_input(g) if g.model.is_mla else kv_input(g), output_rows(g)
    for il in g.layers:
        h = norm(g, x, "attn_norm", il)
        if s is None:
            h = _plain(g, kv, h, pos, il)
        elif g.model.is_mla:
            h = latent(g, kv, h, pos, factor, il, s)
        else:
            h = _wide(g, kv, h, pos, factor, il, s)
        h, x = select(g, rows, il, h, x)
        x = g.add(h, x)
        x = g.end_layer(g.add(feed_forward(g, norm(g, x, "ffn_norm", il), il, default), x))
    x = g.output(norm(g, x, "output_norm"), "result_norm")
    g.expand(g.output(logits(g, x, bias=False, scale=False), "result_output"))


def _is_flash(g: GraphContext) -> bool:
    """Whether it is GLM 4.7 Flash, whose first files say nothing of its gates (models/deepseek2.cpp:27)."""
    return g.model.architecture != "deepseek2-ocr" and g.n_layer in (47, 48) and g.n_vocab == 154880


def _plain(g: GraphContext, kv: Kv, h: Tensor, pos: Tensor, il: int) -> Tensor:
    head = g.n_embd // g.n_head()
    if head != g.head_k() or head != g.head_v():
        raise Unbuildable(f"heads of {g.head_k()} and {g.head_v()} elements where {head} are wanted")
    q, k, v = qkv(g, h, il, head=head, n_head_kv=g.n_head())
    return attend(g, kv, g.rope(q, pos), g.rope(k, pos), v, il, bias=False)


def latent(
    g: GraphContext,
    kv: Kv,
    h: Tensor,
    pos: Tensor,
    factor: Tensor | None,
    il: int,
    s: Sizes,
    *,
    reshapes: bool = True,
) -> Tensor:
    """Latent attention of a layer with the key matrix folded in. `reshapes`: the engine looks at queries through a reshape."""
    q = queries(g, h, il)
    nope, pe = split(g, wide(g, q, s.head, g.n_head()) if reshapes else q, s, g.n_head())
    latent, k_pe = compressed(g, h, il, s)
    q, k, v = absorbed(g, nope, g.rope(pe, pos), latent, g.rope(k_pe, pos), il)
    q = q if factor is None else g.mul(q, factor)
    return attend(g, kv, q, k, v, il, bias=False, v_mla=g.w("attn_v_b.weight", il))


def _wide(
    g: GraphContext, kv: Kv, h: Tensor, pos: Tensor, factor: Tensor | None, il: int, s: Sizes
) -> Tensor:
    q = g.rope(wide(g, queries(g, h, il), s.head, g.n_head()), pos)
    latent, k_pe = compressed(g, h, il, s)
    k, v = decompressed(g, latent, g.rope(k_pe, pos), il, s, g.n_head())
    q = q if factor is None else g.mul(q, factor)
    return attend(g, kv, q, k, v, il, bias=False)


def feed_forward(
    g: GraphContext, h: Tensor, il: int, default: str = "softmax", *, scales: bool = False
) -> Tensor:
    """Experts beside a shared one, or a dense network in the first layers. `default`: how experts are chosen."""
    if not g.has("ffn_gate_inp.weight", il):
        return ffn(g, h, il, biases=False, scales=scales)
    experts = moe(
        g, h, il,
        gating=gating(g, default),
        norm=bool(g.hp("expert_weights_norm")),
        scale=g.hp("expert_weights_scale"),
        bias="exp_probs_b.bias",
        gate_up="ffn_gate_up_exps",
        scales=scales,
        precise=g.model.architecture == "mistral4",
    )  # fmt: skip
    return g.add(experts, shared(g, h, il, scales=scales))
