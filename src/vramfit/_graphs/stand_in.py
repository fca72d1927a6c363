"""Build a stand-in for a graph that nobody wrote: all that the layers of a model can make, each kept to its layer's end.

In: a `GraphContext` of any architecture. Out: a graph that holds more at once than the model's own, layer by layer, and
is scheduled as that is: its nodes read the same weights, caches and states where they lie.

Why it is no less. Weights, caches and states are what the header says, and attention over a cache is the engine's own
helper. What a layer makes beside it are products with its weights, and what is made of a product and of its input (normed,
rotated, gated, permuted) is no longer than that. Here every product, one thing made of it, and its input live until
the layer ends, where an engine frees them on the way; nothing is written over a source; and what comes before the layers
lives through all of them. Not held are results without a weight of their size, and operations that a card cannot run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod

from .._ggml.graph import HOST, NONE, Tensor
from .._ggml.ops import F32, I32, I64, Unbuildable
from .._llama.cparams import cells
from .._llama.model import Cache, Home, Layer
from .attention import Kv, attend, bare_input, cached_k, cached_v, kq_mask, rotation, store_k
from .context import GraphContext
from .parts import embeddings, logits, norm, output_rows, positions
from .recurrent import Rs, read_state, rs_input, write_state

__all__ = ["build"]

_OFFLOADED = (
    32  # tokens from which on a card takes the products of the host's weights (ggml-cuda.cu, offload_op)
)
_WORDS = 64  # of a token beside its embedding, in inputs of any kind
_STREAM_COPIES = 4  # of residual streams in a layer: read, predicted, corrected, written
_POSITIONS = 4  # of a token, at most: time, height, width and one more
_NO_PRODUCTS = (
    "token_embd.weight",
    "output.weight",
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
)
Inputs = dict[object, Kv]  # by what caches with one mask have in common
Rows = Callable[[int, int], Tensor]  # elements of a head, heads -> [head, heads, n_tokens]


class _Kept:
    """What must live on until it is released."""

    def __init__(self, g: GraphContext, longer: _Kept | None = None) -> None:
        self._g = g
        self.longer = longer or self  # for what lives on behind the layer, too
        self._all: list[Tensor] = []

    def __call__(self, t: Tensor, *, travels: bool = True) -> Tensor:
        """Keep a tensor; one that never `travels` is not copied to the device that its layer ends on."""
        self._g.expand(t)
        self._all.append(t if travels else self._g.view(t, (1,)))
        return t

    def released(self, x: Tensor) -> Tensor:
        """Return `x`, behind readers of all that was kept."""
        for t in self._all:
            x = self._g.of("ADD", x.ne, x, t)
        self._all.clear()
        return x


def build(g: GraphContext) -> None:
    """Append the graph."""
    if g.model.is_encoder and g.model.has_cache:
        raise Unbuildable("no stand-in holds what a decoder reads of an encoder")
    always = _Kept(g)
    kept = _Kept(g, always)
    ends: list[Tensor] = []
    best: list[Tensor] = []  # what a layer has chosen of a cache, which later ones may use again
    x = embeddings(g, deepstack=g.n("n_deepstack_layers"))
    always(g.cont(x))
    always(g.of("ADD", x.ne, x, g.input("more", F32, x.ne[0] + _WORDS, g.n_tokens)))
    pos, inputs = positions(g, _POSITIONS), _inputs(g)
    rs = rs_input(g) if any(layer.states for layer in g.model.layers) else None
    _outer(g, x, always)
    n_streams = max(1, g.n("hyper_connection.count"), g.n("altup.num_inputs"))
    if n_streams > 1:
        x = g.pad(x, (n_streams - 1) * g.n_embd)
    for il in g.layers:
        h = kept(norm(g, g.view(x, (g.n_embd, g.n_tokens), x.nb[1:2]), _norm_of(g, il), il))
        made = {g.n_embd: h}
        first, rest = _in_order(g, il)
        _products(g, first, made, il, kept)
        for t in (*best, *([x] * _STREAM_COPIES if n_streams > 1 else ())):
            kept(g.cont(t))
        best = _attention(g, inputs, made, pos, il, kept) or best
        if rs is not None:
            _states(g, rs, made, il, kept)
        _products(g, rest, made, il, kept)
        x = kept.released(g.of("ADD", x.ne, x, h))
        x = g.end_layer(g.cont(always.released(x) if g.is_last(il) else x))
        if g.has("output_res_score.weight"):
            ends.append(x)  # the output looks back at all layers
    _end(g, x, ends, n_streams, kept)


def _end(g: GraphContext, x: Tensor, ends: Sequence[Tensor], n_streams: int, kept: _Kept) -> None:
    """Append the last norm and the logits, where all residual streams and what the output looks back at come together."""
    last = g.w("output_norm.weight")
    if last is not None:
        streams = (
            g.view(x, (g.n_embd, g.n_tokens), x.nb[1:2], i * g.n_embd * x.nb[0]) for i in range(n_streams)
        )
        for t in (*ends, x, *streams):
            kept(g.of("MUL", t.ne, t, last))  # where the output is
    x = kept.released(x)
    x = x if n_streams == 1 else g.cont(g.view(x, (g.n_embd, g.n_tokens), x.nb[1:2]))
    x = g.get_rows(g.output(norm(g, x, "output_norm"), "result_norm"), output_rows(g))
    g.expand(g.output(logits(g, x), "result_output"))


def _in_order(g: GraphContext, il: int) -> tuple[list[str], list[str]]:
    """Split the weights of a layer: those read before attention, and the others, with the output projection among them."""
    names = list(g.known.own[il])
    first = [n for n in names if n.startswith(("attn_q", "attn_k", "attn_v"))]
    return first, [n for n in names if n not in first]


def _states(g: GraphContext, rs: Rs, made: dict[int, Tensor], il: int, kept: _Kept) -> None:
    """Read the recurrent states of a layer, change them and write them back; return what a scan makes of the last."""
    states = g.layer(il).states
    found = None
    for i in range(len(states)):
        state = g.state(il, i)
        found = kept(read_state(g, rs, state))
        if state.home != g.placement.layers[il]:
            kept(g.pin(g.cont(found), il))
        write_state(g, kept(kept(g.cont(found))), state)
    scan = next((w.scan for w in g.model.weights if w.home == il and w.scan), ())
    if found is not None and scan:
        _scan(g, rs, found, state, scan, made, il, kept)
    if states and not states[0]:  # no convolution before it: what fades does so from each token to each
        n = g.n_seq_tokens
        pairs = kept(g.scale(g.input("pairs", F32, n, n, g.n_head(il), g.n_seqs)))
        kept(kept(g.cont(kept(g.cont(pairs)))))


def _scan(
    g: GraphContext,
    rs: Rs,
    states: Tensor,
    state: Tensor,
    scan: Sequence[int],
    made: dict[int, Tensor],
    il: int,
    kept: _Kept,
) -> None:
    """Append a state-space scan. What it reads are parts of rows, whose copies are as long as the rows."""
    size, head, n_head, n_group = scan
    inner = head * n_head
    row = _wide(g, made, max(2 * inner + 2 * size * n_group + n_head, g.n_embd + 1), kept)
    x, dt, b, c = (
        g.view(row, (n, g.n_tokens), row.nb[1:2]) for n in (inner, n_head, size * n_group, size * n_group)
    )
    y = g.of(
        "SSM_SCAN",
        (inner * g.n_tokens + size * inner * g.n_seqs,),
        states,
        x,
        dt,
        g.w("ssm_a", il),
        b,
        c,
        rs.main,
        params=(1,),
    )
    kept(g.cont(g.view(kept(y), (inner, g.n_tokens))))
    n = size * inner * g.n_seqs
    write_state(g, g.view(y, (n,), (), inner * g.n_tokens * y.nb[0]), state)


def _norm_of(g: GraphContext, il: int) -> str:
    """Append the norm that a layer begins with; its name says nothing else here."""
    names = [
        n.removesuffix(".weight")
        for n in g.known.own[il]
        if "norm" in n and g.need(n, il).ne[:2] == (g.n_embd, 1)
    ]
    return names[0] if names else "attn_norm"


def _outer(g: GraphContext, x: Tensor, always: _Kept) -> None:
    """Append what is made of weights outside the layers: before them, and kept through all."""
    made = {g.n_embd: x}
    for name, homes in g.known.outer.items():
        if name in _NO_PRODUCTS:
            continue
        for home in homes:
            w = g.at(name, home) if isinstance(home, Home) else g.w(name, home)
            if w is None or w.ne[1] < 2:
                continue
            if home is Home.INPUT and g.tokens is not None:
                always(g.get_rows(w, g.tokens) if w.ne[2] == 1 else x)
            else:
                _product(g, w, made, 1, always)


def _products(g: GraphContext, names: Sequence[str], made: dict[int, Tensor], il: int, kept: _Kept) -> None:
    """Append the products of a layer's weights."""
    home = g.placement.layers[il]
    again: list[Tensor] = []
    for name in names:
        w = g.need(name, il)
        if prod(w.ne[1:]) > 1 and name.endswith("weight"):
            _product(g, w, made, g.n_expert_used(il), kept)
            if w.home == HOST and ("gate" in name or "up" in name):
                again.append(w)  # groups that the engine fuses keep what they read
        elif w.home != home or w.home == HOST:  # brought to the layer, or the layer's rows to it
            kept(g.of("MUL", (w.ne[0], g.n_tokens), _wide(g, made, w.ne[0], kept), w))
    for w in again:
        _product(g, w, _few(g, made), g.n_expert_used(il), kept)


def _few(g: GraphContext, made: dict[int, Tensor]) -> dict[int, Tensor]:
    """View the first rows of the layer's input: as many as a card takes a product of the host's for."""
    h = made[g.n_embd]
    return {g.n_embd: g.view(h, (g.n_embd, min(_OFFLOADED, g.n_tokens)), h.nb[1:2])}


def _product(g: GraphContext, w: Tensor, made: dict[int, Tensor], n_used: int, kept: _Kept) -> None:
    """Append the product of a weight with rows of its width, and what is made of it."""
    n, many = w.ne[0], w.ne[2]
    n_tokens = made[g.n_embd].ne[1]
    if many > 1 and many == g.n_expert:
        x = g.reshape(_wide(g, made, n * n_used, kept), n, n_used, n_tokens)
        ids = g.of("ARGSORT", (n_used, n_tokens), _wide(g, made, g.n_embd, kept), type_=I32)
        y = g.mul_mat_id(w, x, ids)
    elif many > 1:
        x = g.reshape(_wide(g, made, n * many, kept), n, many, n_tokens)
        y = g.mul_mat(w, g.permute(x, 0, 2, 1, 3))
    else:
        y = g.mul_mat(w, _wide(g, made, n, kept))
    kept(g.cont(kept(y)))


def _wide(g: GraphContext, made: dict[int, Tensor], n: int, kept: _Kept) -> Tensor:
    """Make rows of a width out of those of the layer's input."""
    if n not in made:
        h = made[g.n_embd]
        made[n] = kept(g.pad(h, n - g.n_embd) if n > g.n_embd else g.cont(g.view(h, (n, h.ne[1]), h.nb[1:2])))
    return made[n]


# --- attention


def _caches(g: GraphContext, il: int) -> tuple[Cache, ...]:
    """List the caches that a layer reads: its own, or those of the layer that it shares with."""
    layer = g.layer(il)
    return layer.caches if layer.shares_kv_with is None else g.layer(layer.shares_kv_with).caches


def _kind(cache: Cache) -> object:
    """Return what caches with one mask have in common."""
    return cache.kind, cache.cells, cache.window, cache.ratio, cache.always_split


def _inputs(g: GraphContext) -> Inputs:
    """Append indices and a mask for each kind of cache."""
    found: Inputs = {}
    for il in g.known.trunk:
        layer, c = g.layer(il), g.context
        for cache in _caches(g, il):
            key = _kind(cache)
            if key not in found:
                n_idxs = g.n_tokens * (g.model.v_width_max if c.v_trans else 1)
                found[key] = Kv(
                    g.input("k_idxs", I64, g.n_tokens),
                    g.input("v_idxs", I64, n_idxs) if cache.has_v else None,
                    kq_mask(g, cells(cache, c)),
                    rotation(g, "k_rot", c.type_k, layer.head_k, [layer.head_k]),
                    rotation(g, "v_rot", c.type_v, layer.head_v, [layer.head_v], smallest=True),
                    cache.kind,
                )
    if not g.model.has_cache:
        bare = bare_input(g)
        found[None] = bare  # type: ignore[assignment]
    return found


def _attention(
    g: GraphContext, inputs: Inputs, made: dict[int, Tensor], pos: Tensor, il: int, kept: _Kept
) -> list[Tensor]:
    """Append attention over each cache of a layer, from rows that are as wide as its heads; what was chosen of other caches."""
    layer, best = g.layer(il), list[Tensor]()

    def rows(head: int, n: int) -> Tensor:
        return kept(g.cont(g.reshape(_wide(g, made, head * n, kept), head, n, g.n_tokens)))

    if not g.model.has_cache and layer.n_head:
        q, k, v = _queries_keys_values(g, layer, made, kept)
        kept(attend(g, inputs[None], q, kept(g.cont(k)), kept(g.cont(v)), il, out=None))
    for cache in _caches(g, il):
        kv = inputs[_kind(cache)]
        if not layer.n_head or not layer.n_head_kv:
            continue  # it has a cache, and nothing to look for in it
        if cache.kind != "kv":
            best += _twice(g, il, partial(_scores, g, kv, cache, rows, il, kept))
            continue
        q, k, v = _queries_keys_values(g, layer, made, kept)
        for t in (q, k):
            kept(g.rope(g.cont(t), pos))
        own_k, own_v = (None, None) if layer.shares_kv_with is not None else (k, v)
        if _stays(g, il):
            kept(attend(g, kv, q, own_k, own_v, il, out=None))
        else:
            _twice(g, il, partial(_attend_away, g, kv, q, own_k, own_v, il, kept))
    return best


def _attend_away(
    g: GraphContext, kv: Kv, q: Tensor, k: Tensor | None, v: Tensor | None, il: int, kept: _Kept
) -> Tensor:
    """Append attention over a cache that lies elsewhere, whose copies are there a second time: in another order, or type.

    Copies for layers that store nothing themselves are there all at once: with no store between them they are one split.
    """
    x = kept(attend(g, kv, q, k, v, il, out=None))
    last = kept.longer if k is None else kept
    for t in (cached_k(g, il, kv.kind), cached_v(g, il)) if kv.v_idxs is not None else ():
        last(g.cont(t), travels=False)
    return x


def _stays(g: GraphContext, il: int) -> bool:
    """Tell whether attention of a layer runs where the layer is, and nowhere else: its cache is there, on a card or without cards."""
    owner, home = g.layer(il).shares_kv_with, g.placement.layers[il]
    at = g.placement.caches[il if owner is None else owner]
    return at == home and (home != HOST or not g.placement.n_devices)


def _twice(g: GraphContext, il: int, make: Callable[[], Tensor]) -> list[Tensor]:
    """Make something on the layer's card, or the first, and on the host: where it runs depends on what is around it."""
    made: list[Tensor] = []
    for place in dict.fromkeys((max(0, g.placement.layers[il]) if g.placement.n_devices else HOST, HOST)):
        first = len(g.nodes)
        made.append(make())
        for i in g.nodes[first:]:
            t = g.tensors[i]
            if t.view == NONE and t.pinned == NONE:
                t.pinned = place
    return made


def _queries_keys_values(
    g: GraphContext, layer: Layer, made: dict[int, Tensor], kept: _Kept
) -> tuple[Tensor, Tensor, Tensor]:
    """Make heads as parts of one long row: a copy of one of them to another device is as long."""
    sizes = ((layer.head_k, layer.n_head), (layer.head_k, layer.n_head_kv), (layer.head_v, layer.n_head_kv))
    row = kept(g.cont(_wide(g, made, sum(a * n for a, n in sizes), kept)))
    found, at = [], 0
    for head, n in sizes:
        found.append(g.view(row, (head, n, g.n_tokens), (head * row.nb[0], row.nb[1]), at * row.nb[0]))
        at += head * n
    return found[0], found[1], found[2]


def _scores(g: GraphContext, kv: Kv, cache: Cache, rows: Rows, il: int, kept: _Kept) -> Tensor:
    """Append what is chosen of a cache of another kind: scores of all heads, their sum, its order and a mask of the best."""
    n_head = g.model.n_head_indexer if cache.kind == "indexer" else g.n_head(il)
    if g.layer(il).shares_kv_with is None:
        g.expand(store_k(g, rows(cache.k_width, 1), kv.k_idxs, il, cache.kind))
    k = cached_k(g, il, cache.kind)
    q, n, n_stream = rows(cache.k_width, max(1, n_head)), g.n_tokens // k.ne[3], k.ne[3]
    q = g.view(q, (q.ne[0], q.ne[1], n, n_stream), (q.nb[1], q.nb[2], q.nb[2] * n))
    scores = g.mul_mat(g.permute(k, 0, 2, 1, 3), g.permute(q, 0, 2, 1, 3))
    kept(scores, travels=False)
    shape = (scores.ne[0], n, 1, n_stream)
    total = kept(g.of("SUM_ROWS", shape, scores))
    order = kept(g.of("ARGSORT", shape, total, type_=I32))
    return kept(g.of("ADD", shape, total, kept(g.of("SCALE", shape, order))))
