"""T5: a decoder that also attends to what an encoder has left. Source: models/t5.cpp."""

from __future__ import annotations

from ..._base.errors import EngineRefusal
from ..._ggml.graph import Tensor
from ..._ggml.ops import F32, I32
from ..._llama.model import Model
from ..attention import Bare, Kv, attend, kv_input, mask_input
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import check_heads, embeddings, linear, logits, norm, output_rows, wide

__all__ = ["build", "position_bias", "traits"]


def traits(model: Model, il: int) -> tuple[bool, bool]:
    """Whether a layer is the decoder's last, or behind it."""
    n = model.hparams.get("decoder_block_count", model.n_layer)
    n = n if isinstance(n, int) else model.n_layer
    return il == n - 1, il >= n


def build(g: GraphContext) -> None:
    """Append the graph of the decoder: the one that a context reserves for. Raises `EngineRefusal` for caches of several slots."""
    if g.run.context.n_stream > 1:  # ggml_can_repeat aborts: the bias of positions has no streams
        raise EngineRefusal("t5 has no caches apart for several slots; set kv_unified, or one slot")
    check_heads(g, rotated=False)
    x = embeddings(g)
    n_encoded = g.model.n_ctx_train
    encoded = g.input("cross_embd", F32, g.n_embd, n_encoded)
    kv, rows = kv_input(g), output_rows(g)
    buckets = g.input("pos_bucket_dec", I32, kv.mask.ne[0], g.n_tokens)
    cross = Bare(mask_input(g, "cross_kq_mask", n_encoded, g.n_tokens))
    for il in g.layers:
        is_last, is_behind = traits(g.model, il)
        if is_behind:
            g.end_layer(x)
            continue
        h = norm(g, x, "dec.attn_norm", il)
        x = g.add(_attend_self(g, kv, h, buckets, il), x)
        h = _attend_cross(g, cross, norm(g, x, "dec.cross_attn_norm", il), encoded, il)
        if is_last:
            h, x = g.get_rows(h, rows), g.get_rows(x, rows)
        x = g.add(h, x)
        x = g.end_layer(g.add(feed(g, norm(g, x, "dec.ffn_norm", il), il, "dec"), x))
    x = g.output(norm(g, x, "dec.output_norm"), "result_norm")
    g.expand(g.output(logits(g, x, bias=False), "result_output"))


def _attend_self(g: GraphContext, kv: Kv, x: Tensor, buckets: Tensor, il: int) -> Tensor:
    counts = {"q": g.n_head(), "k": g.n_head_kv(), "v": g.n_head_kv()}
    q, k, v = (
        wide(g, _scaled(g, x, f"dec.attn_{c}", f"attn_{c}", il), g.head_v(), n) for c, n in counts.items()
    )
    x = attend(g, kv, q, k, v, il, out=None, kq_b=position_bias(g, buckets, "dec", il))
    return _scaled(g, x, "dec.attn_o", "attn_output", il)


def _scaled(g: GraphContext, x: Tensor, name: str, scale: str, il: int) -> Tensor:
    """A projection whose scale is named as in models that have but one side (llama-model.cpp, the pass over scales)."""
    return g.mul_mat(g.need(f"{name}.weight", il), x, scale=g.w(f"{scale}.scale", il))


def _attend_cross(g: GraphContext, cross: Bare, x: Tensor, encoded: Tensor, il: int) -> Tensor:
    n = encoded.ne[1]
    q = linear(g, x, "dec.cross_attn_q", il, scale=False, bias=False)
    k, v = (linear(g, encoded, f"dec.cross_attn_{c}", il, scale=False, bias=False) for c in "kv")
    q = wide(g, q, g.head_v(), g.n_head())
    k, v = (g.reshape(t, g.head_v(), g.n_head_kv(), n) for t in (k, v))
    return attend(g, cross, q, k, v, il, out="dec.cross_attn_o", bias=False, scale=False)


def position_bias(g: GraphContext, buckets: Tensor, side: str, il: int) -> Tensor:
    """The bias of each pair of positions, the layer's own or the first one's (build_pos_bias, 2601)."""
    own = g.w(f"{side}.attn_rel_b.weight", il)
    matrix = g.need(f"{side}.attn_rel_b.weight", 0) if own is None else own
    flat = g.reshape(buckets, buckets.ne[0] * buckets.ne[1])
    bias = g.get_rows(matrix, flat)
    bias = g.reshape(bias, bias.ne[0], *buckets.ne[:2])
    return g.named(g.cont(g.permute(bias, 2, 0, 1, 3)), "pos_bias")


def feed(g: GraphContext, x: Tensor, il: int, side: str) -> Tensor:
    """A feed-forward with a gate, or the older one without."""
    names = {part: f"{side}.ffn_{part}" for part in ("up", "gate", "down")}
    act = "gelu" if g.has(f"{side}.ffn_gate.weight", il) else "relu"
    return ffn(g, x, il, act=act, biases=False, up=names["up"], gate=names["gate"], down=names["down"])
