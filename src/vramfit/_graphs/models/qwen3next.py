"""Qwen3-Next: delta nets, gated attention in every fourth layer, a mixture. Source: models/qwen3next.cpp."""

from __future__ import annotations

from ..._ggml.graph import Tensor
from ..._llama.model import Model
from ..attention import kv_input
from ..context import GraphContext
from ..feed_forward import ffn
from ..parts import embeddings, linear, norm, output_rows, positions
from ..qwen_next import decays, finish, gated_attention, linear_attention, linear_window, mixture
from ..recurrent import Rs, is_first_recurrent, rs_input


def traits(model: Model, il: int) -> bool:
    """Whether a layer is the first with a state."""
    return is_first_recurrent(model, il)


def build(g: GraphContext) -> None:
    """Append the graph."""
    x = embeddings(g)
    rs, kv, pos, rows = rs_input(g), kv_input(g), positions(g), output_rows(g)
    for il in g.layers:
        h = g.expand(norm(g, x, "attn_norm", il))
        if g.is_recurrent(il):
            h = _recurrent(g, rs, h, il)
        else:
            h = gated_attention(g, kv, h, pos, il, reshapes=True)
        x = g.add(h, x)
        h = norm(g, x, "post_attention_norm", il)
        h = mixture(g, h, il) if g.has("ffn_gate_inp.weight", il) else ffn(g, h, il, biases=False)
        x = g.end_layer(g.add(h, x))
    finish(g, x, rows)


def _recurrent(g: GraphContext, rs: Rs, x: Tensor, il: int) -> Tensor:
    n_k, n_v, n, seqs = g.n("ssm.group_count"), g.n("ssm.time_step_rank"), g.n_seq_tokens, g.n_seqs
    qkv, z = _projected(g, x, il) if g.has("attn_qkv.weight", il) else _old_projected(g, x, il)
    t = linear(g, x, "ssm_ba", il, scale=False, bias=False)
    t = g.reshape(t, 2 * n_v // n_k, n_k, n, seqs)
    b, a = (g.view(t, (n_v // n_k, n_k, n, seqs), t.nb[1:], i * (n_v // n_k) * t.nb[0]) for i in (0, 1))
    beta = g.reshape(g.sigmoid(g.cont(b)), 1, n_v, n, seqs)
    decay = decays(g, g.cont(a, n_v, n, seqs), il)
    window = linear_window(g, rs, qkv, il)
    return linear_attention(g, rs, window, z, decay, beta, il, interleaved=True)


def _projected(g: GraphContext, x: Tensor, il: int) -> tuple[Tensor, Tensor]:
    qkv = linear(g, x, "attn_qkv", il, scale=False, bias=False)
    z = linear(g, x, "attn_gate", il, scale=False, bias=False)
    return g.reshape(qkv, qkv.ne[0], g.n_seq_tokens, g.n_seqs), z


def _old_projected(g: GraphContext, x: Tensor, il: int) -> tuple[Tensor, Tensor]:
    """Files of the first converter hold all four in one matrix, head by head of the keys."""
    size, n_k, n_v = g.n("ssm.state_size"), g.n("ssm.group_count"), g.n("ssm.time_step_rank")
    n, seqs, value = g.n_seq_tokens, g.n_seqs, g.n("ssm.inner_size") // n_v * n_v // n_k
    t = linear(g, x, "ssm_in", il, scale=False, bias=False)
    t = g.reshape(t, 2 * (size + value), n_k, n, seqs)
    at, found = 0, []
    for width in (size, size, value, value):
        found.append(g.view(t, (width, n_k, n, seqs), t.nb[1:], at * t.nb[0]))
        at += width
    q, k, v, z = found
    q, k, v = (g.cont(part, part.ne[0] * n_k, n, seqs) for part in (q, k, v))
    return g.concat(g.concat(q, k, 0), v, 0), g.cont(z)
