"""Give builders what they work with: a model's numbers and weights, the batch, and ggml's operations.

In: a `Known` model, a `Run`, a `Placement`. Out: `GraphContext`, whose operations append to one graph.
Source: `llm_graph_context` (llama-graph.cpp:1460-1512); names of numbers are the engine's (`n_head(il)` is
`hparams.n_head(il)`, without a layer that of layer 0).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite, prod

from .._ggml.graph import CACHE, HOST, NONE, OUTPUT, WEIGHT, Extents, Tensor, contiguous
from .._ggml.ops import F32, Ops, Unbuildable
from .._ggml.types import TensorType
from .._llama.cparams import cache_streams, cells
from .._llama.memory import cache_rows
from .._llama.model import Cache, Home, Layer
from .._llama.placement import Placement
from .known import Known
from .run import Instance, Run

__all__ = ["GraphContext"]

FULL_BATCH = (
    32  # from so many tokens the engine pins norms only if all layers are on devices (llama-context.cpp:2647)
)


class GraphContext(Ops):
    """Makes the graph of one reservation of one model. `layers` are those to build, in order."""

    def __init__(self, known: Known, run: Run, placement: Placement, layers: Sequence[int]) -> None:
        super().__init__()
        model = known.model
        self.known, self.model, self.run, self.placement, self.layers = known, model, run, placement, layers
        self.context = run.context
        self.n_tokens, self.n_seqs, self.n_outputs = run.n_tokens, run.n_seqs, run.n_outputs
        self.n_seq_tokens = run.n_tokens // run.n_seqs
        self.n_embd, self.n_vocab, self.n_expert = model.n_embd, model.n_vocab, model.n_expert
        self.n_layer = len(known.trunk)
        self.flash_attn = run.flash_attn
        on_devices = placement.n_devices > 0 and min(placement.layers) >= 0
        self._pins_norms = placement.n_devices > 0 and (run.n_tokens < FULL_BATCH or on_devices)
        self.tokens: Tensor | None = None  # as the embeddings read them
        self._weights: dict[tuple[str, int], Tensor] = {}
        self._caches: dict[tuple[int, str], Tensor] = {}
        self._fused: list[tuple[int, int, str]] = []
        self._ends: list[int] = []
        self.embd: Tensor | None = None  # what a context for embeddings pools (t_embd)

    # --- numbers

    def hp(self, key: str, default: float = 0, il: int | None = None) -> float:
        """Read a number or switch of the header; of an array by layer the layer's, or that of layer 0."""
        value = self.model.hparams.get(key, default)
        if isinstance(value, (list, tuple)):
            at = il or 0
            value = value[at] if at < len(value) else default
        if not isinstance(value, (int, float)):
            raise Unbuildable(f"{self.model.architecture}.{key} is no number")
        return value

    def n(self, key: str, default: int = 0, il: int | None = None) -> int:
        """Read a whole number of the header."""
        value = self.hp(key, default, il)
        if not isfinite(value):
            raise Unbuildable(f"{self.model.architecture}.{key} is no whole number")
        return int(value)

    def layer(self, il: int = 0) -> Layer:
        """Return what the model says of a layer."""
        return self.model.layers[il]

    def n_head(self, il: int = 0) -> int:
        """Count the heads of the queries."""
        return self.model.layers[il].n_head

    def n_head_kv(self, il: int = 0) -> int:
        """Count the heads of the keys and values."""
        return self.model.layers[il].n_head_kv

    def head_k(self, il: int = 0) -> int:
        """Count the elements of a key head (n_embd_head_k)."""
        return self.model.layers[il].head_k

    def head_v(self, il: int = 0) -> int:
        """Count the elements of a value head (n_embd_head_v)."""
        return self.model.layers[il].head_v

    def n_expert_used(self, il: int = 0) -> int:
        """Count the experts that a token goes through."""
        return self.model.layers[il].n_expert_used

    def is_swa(self, il: int) -> bool:
        """Tell whether a layer sees a window only."""
        return self.model.layers[il].is_swa

    def is_recurrent(self, il: int) -> bool:
        """Tell whether a layer keeps a state (is_recr)."""
        return self.model.layers[il].is_recurrent

    def is_last(self, il: int) -> bool:
        """Tell whether a layer is the last of the main graph."""
        return il == self.known.trunk[-1]

    # --- weights

    def w(self, name: str, il: int | None = None) -> Tensor | None:
        """Find a weight: of a layer, of all (`il` is the home it was created for), or None where the model has none."""
        if il is None:
            homes = self.known.outer.get(name)
            return None if homes is None else self._weight(next(iter(homes.values())))
        index = self.known.own[il].get(name)
        if index is None:
            index = self.known.outer.get(name, _NO_HOMES).get(il)
        return None if index is None else self._weight(index)

    def at(self, name: str, home: Home) -> Tensor | None:
        """Find a weight outside layers that was created for the input or the output."""
        index = self.known.outer.get(name, _NO_HOMES).get(home)
        return None if index is None else self._weight(index)

    def need(self, name: str, il: int | None = None) -> Tensor:
        """Find a weight that must be there. Raises `Unbuildable` where it is not."""
        found = self.w(name, il)
        if found is None:
            raise Unbuildable(f"the model has no {name if il is None else f'blk.{il}.{name}'}")
        return found

    def reshaped(self, name: str, il: int, *ne: int) -> Tensor:
        """Find a weight that the engine loads in other extents than the file's (TENSOR_ALLOW_RESHAPE)."""
        t = self.need(name, il)
        a, b, c, d = (*ne, 1, 1, 1, 1)[:4]
        if a * b * c * d != prod(t.ne):
            raise Unbuildable(f"blk.{il}.{name} has not the elements of {list(ne)}")
        t.ne, t.nb = (a, b, c, d), contiguous(t.type, (a, b, c, d))
        return t

    def has(self, name: str, il: int | None = None) -> bool:
        """Tell whether the model has a weight."""
        if il is None:
            return name in self.known.outer
        return name in self.known.own[il] or il in self.known.outer.get(name, _NO_HOMES)

    def _weight(self, index: int) -> Tensor:
        device = self.placement.weights[index]
        tensor = self.model.weights[index].tensor
        found = self._weights.get((tensor.name, device))
        if found is None:
            ne, nb = self.known.shapes[index]
            # buffers of adapters and control vectors are not marked as weights (llama-adapter.cpp)
            given = self.model.weights[index].beside is not None or tensor.name.endswith(".direction")
            usage = CACHE if given else WEIGHT
            found = Tensor(tensor.name, "NONE", tensor.type, ne, nb, usage=usage, home=device)
            self._weights[tensor.name, device] = self.leaf(found)
        return found

    # --- adapters

    def mul_mat(
        self, a: Tensor, b: Tensor, params: tuple[int, ...] = (), scale: Tensor | None = None
    ) -> Tensor:
        """`b` times a matrix, times its `scale`; where that is a weight with adapters, with what they add (build_lora_mm, 1520)."""
        x = super().mul_mat(a, b, params)
        x = x if scale is None else self.mul(x, scale)
        for low, high in self._adapters(a):
            x = self.add(x, self.scale(super().mul_mat(high, super().mul_mat(low, b))))
        return x

    def mul_mat_id(
        self, a: Tensor, b: Tensor, ids: Tensor, params: tuple[int, ...] = (), scale: Tensor | None = None
    ) -> Tensor:
        """`b` times matrices of experts, times the `scale` of each, with what adapters add (build_lora_mm_id, 1555)."""
        x = super().mul_mat_id(a, b, ids, params)
        if scale is not None:
            n = scale.ne[0]
            x = self.mul(x, self.get_rows(self.repeat(self.reshape(scale, 1, n, 1), 1, n, b.ne[2]), ids))
        for low, high in self._adapters(a):
            x = self.add(x, self.scale(super().mul_mat_id(high, super().mul_mat_id(low, b, ids), ids)))
        return x

    def looked_up(self, matrix: Tensor, tokens: Tensor) -> Tensor:
        """The embeddings of tokens, with what adapters add (build_inp_embd, 2376)."""
        x = self.get_rows(matrix, tokens)
        for low, high in self._adapters(matrix):
            x = self.add(x, self.scale(super().mul_mat(high, self.get_rows(low, tokens))))
        return x

    def is_adapted(self, name: str, il: int) -> bool:
        """Tell whether adapters change a layer's weight."""
        return bool(self.known.adapters) and f"blk.{il}.{name}" in self.known.adapters

    def _adapters(self, a: Tensor) -> list[tuple[Tensor, Tensor]]:
        pairs = self.known.adapters.get(a.name, ()) if self.known.adapters and a.usage == WEIGHT else ()
        return [(self._weight(low), self._weight(high)) for low, high in pairs]

    # --- memory

    def cache_of(self, il: int, kind: str = "kv") -> Cache:
        """Find the cache of this kind that a layer reads: its own, or that of the layer it shares with."""
        for cache in self._owner(il).caches:
            if cache.kind == kind:
                return cache
        raise Unbuildable(f"layer {il} has no cache {kind}")

    def cache(self, il: int, which: int, kind: str = "kv") -> Tensor:
        """Return the K (0) or V (1) tensor of a layer's cache: [width, cells, streams]."""
        owner = self._owner(il)
        key = (owner.index, f"{kind}.{which}")
        if key not in self._caches:
            cache, c = self.cache_of(il, kind), self.context
            type_, width = cache_rows(self.model, cache, c)[which]
            ne = (width, cells(cache, c), cache_streams(cache, c), 1)
            self._caches[key] = self._memory(f"cache_{kind}_{'kv'[which]}_l{il}", type_, ne, owner.index)
        return self._caches[key]

    def state(self, il: int, which: int, width: int = 0) -> Tensor:
        """Return a recurrent state of a layer in f32 (r is 0, s is 1): [elements, sequences], or in rows of a `width`."""
        key = (il, f"state.{which}")
        if key not in self._caches:
            size = self.model.layers[il].states[which]
            n = self.context.n_seq_max * (1 + self.context.n_rs_seq)
            ne = (width, size // width, n, 1) if width else (size, n, 1, 1)
            self._caches[key] = self._memory(f"cache_{'rspq'[which]}_l{il}", F32, ne, il)
        return self._caches[key]

    def _owner(self, il: int) -> Layer:
        layer = self.model.layers[il]
        return layer if layer.shares_kv_with is None else self.model.layers[layer.shares_kv_with]

    def _memory(self, name: str, type_: TensorType, ne: Extents, il: int) -> Tensor:
        home = self.placement.caches[il]
        return self.leaf(Tensor(name, "NONE", type_, ne, contiguous(type_, ne), usage=CACHE, home=home))

    # --- marks

    def named(self, t: Tensor, name: str) -> Tensor:
        """Give a node the engine's name, for those who read the graph."""
        t.name = name
        return t

    def pin(self, t: Tensor, il: int) -> Tensor:
        """Keep a node on the device of its layer, where the engine does so ("norm", llama-context.cpp:2646-2656)."""
        if self._pins_norms:
            t.pinned = self.placement.layers[il]
        return t

    def on_host(self, t: Tensor) -> Tensor:
        """Keep a node on the CPU where the caches are there (llama-graph.cpp:2746)."""
        if self.placement.n_devices and not self.placement.offload_kqv:
            t.pinned = HOST
        return t

    def fuses(self, op: str) -> bool:
        """Tell whether the engine fuses an operation in this run."""
        return op in self.run.fused

    def fused(self, t: Tensor, il: int, op: str) -> Tensor:
        """Remember a fused node: the engine asks whether it runs where its layer is (add_fused_node)."""
        self._fused.append((t.index, il, op))
        return t

    def output(self, t: Tensor, name: str) -> Tensor:
        """Mark a result that is read after the graph has run (llm_graph_result::set_outputs).

        The one called "result_norm" or "result_embd" is the embeddings.
        """
        t.flags |= OUTPUT
        if t.view != NONE:
            self.tensors[t.view].flags |= OUTPUT
        t.name = name
        if name in ("result_norm", "result_embd"):
            self.embd = t
        return t

    def steered(self, t: Tensor) -> Tensor:
        """`t` with what a control vector adds to the layer that is being built (build_cvec)."""
        direction = self.known.steered.get(self.layers[len(self._ends)]) if self.known.steered else None
        return t if direction is None else self.add(t, self._weight(direction))

    def end_layer(self, t: Tensor, *, steers: bool = True) -> Tensor:
        """Say that a layer ends with `t` ("l_out"): where the next one begins. A control vector is added there if it `steers`."""
        t = self.steered(t) if steers else t
        self._ends.append(t.index)
        t.name = "l_out"
        if self.layers[len(self._ends) - 1] + 1 in self.context.taps:
            t.flags |= OUTPUT  # the input of the next layer
        return t

    def instance(self) -> Instance:
        """Return the graph, and where its layers lie in it."""
        if len(self._ends) != len(self.layers):
            raise Unbuildable(f"{len(self._ends)} of {len(self.layers)} layers have an end")
        position = {i: p for p, i in enumerate(self.nodes)}
        if any(i not in position for i in self._ends):
            raise Unbuildable("a layer ends with what no later one reads")
        starts = [0, *[position[i] + 1 for i in self._ends]]
        return Instance(self.graph(), tuple(starts), tuple(self._fused))


_NO_HOMES: Mapping[Home | int, int] = {}
