"""What the names in a template stand for: dimensions and conditions of one reservation of one model.

In: `Model`, `Context` and which reservation. Out: ints for the names in expressions, truth for the
names in guards. Nothing here builds a tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from .._ggml.backends import pad
from .._llama.cparams import Context, cells
from .._llama.memory import cache_rows
from .._llama.model import Cache, Cells, Layer, Model
from .expressions import Expression, OutsideTemplate, evaluate
from .run import FUSED, Run
from .text import Guard

__all__ = [
    "FUSED",
    "Run",
    "Scope",
    "holds",
    "layer_weights",
    "literals",
    "outer_weights",
    "owner",
    "run_dims",
    "traits",
]

_BANK: Final = "attn_res.block_size"
_STACKS: Final = ("high", "opens", "closes")
BY_INDEX: Final = (
    "turn",
    "bank",
    "bank=1",
    "bank=2",
    *_STACKS,
)  # conditions on a layer's place among the others
_SCALES: Final = (".scale", ".input_scale")
_GATHERED: Final = 16  # tokens for which an indexer gathers what it selects (models/glm5-next.cpp:325)
_POSITIONS: Final = 256  # that an empty cache is taken to hold (llama-kv-cache-msa.cpp:262)
_HADAMARD: Final = 64  # head sizes that a rotation of quantized caches divides (llama-kv-cache.cpp:325)


def run_dims(model: Model, run: Run) -> dict[str, int]:
    """Dimensions that are the same in all layers."""
    c = run.context
    found = {
        "n_tokens": run.n_tokens,
        "n_seqs": run.n_seqs,
        "n_seq_tokens": run.n_tokens // run.n_seqs,
        "n_stream": c.n_stream,
        "n_outputs": run.n_outputs,
        "n_seq_max": c.n_seq_max,
        "n_kv": c.n_ctx_seq,
        "n_ctx": c.n_ctx,
        "n_ubatch": c.n_ubatch,
        "n_embd": model.n_embd,
        "n_vocab": model.n_vocab,
        "n_expert": model.n_expert,
        "n_layer": count(model, "n_layer"),
        "n_head.first": model.layers[0].n_head if model.layers else 0,
    }
    head = next((x.head_k for x in model.layers if not x.is_nextn), 0)
    if head and not head % _HADAMARD:
        found["k_rot"] = _rotation(head)
    for layer in model.layers:
        for cache in layer.caches:
            if cache.cells is Cells.WINDOW:
                found.setdefault("n_kv_swa", cells(cache, c))
            elif cache.kind != "kv":
                found.setdefault(f"n_kv_{cache.kind}", cells(cache, c))
            if cache.cells is Cells.COMPRESSED:
                found |= _compressor_dims(cache, run)
    blocks = header_number(model, None, "attention.indexer.block_size") or 0
    if blocks:
        found["n_block"] = -(-_POSITIONS // blocks)
    return found | _pool_dims(model, run, found.get("n_kv_indexer", 0))


def _pool_dims(model: Model, run: Run, n_kv: int) -> dict[str, int]:
    """Pools of keys, and how many cells they select (llama-memory-hybrid-idx.cpp:706, 835, models/glm5-next.cpp:322-331)."""
    size = header_number(model, None, "attention.indexer.kpool") or 0
    top_k = header_number(model, None, "attention.indexer.top_k") or 0
    if not size or not n_kv:
        return {}
    tail = size - 1 if model.hparams.get("attention.indexer.kpool_select_tail", True) else 0
    n_new = n_kv // size * run.context.n_seq_max
    n_pool = max(64, pad(n_new + 1, 64))
    n_top = min(n_pool, top_k // size)
    return {"n_pool_new": n_new, "n_pool": n_pool, "n_top_pool": n_top, "n_sel": size * n_top + tail}


def _stack(model: Model, layer: Layer) -> set[str]:
    """Where a layer stands in stacks that run in turns (hrm-text.cpp:49-63)."""
    if layer.block is None:
        return set()
    size = header_number(model, layer, "hrm.layers_per_stack") or 1
    at = layer.block % size
    return {
        x
        for x, holds in (("high", layer.block >= size), ("opens", not at), ("closes", at == size - 1))
        if holds
    }


def _compressor_dims(cache: Cache, run: Run) -> dict[str, int]:
    """Blocks that the batch may complete, their tokens, and tokens that wait (llama-kv-cache-dsv4.cpp:841-880)."""
    n_blocks = run.n_tokens // cache.ratio + run.n_seqs
    overlap = 1 if cache.kind == "hca" else 2
    return {
        f"n_new_{cache.kind}": n_blocks,
        f"n_read_{cache.kind}": n_blocks * cache.ratio,
        f"n_wait_{cache.kind}": overlap * cache.ratio * run.context.n_seq_max,
    }


def _rotation(head: int) -> int:
    """Size of the matrix that rotates quantized keys (llama-kv-cache.cpp:1451-1458)."""
    size = _HADAMARD
    while not head % (2 * size):
        size *= 2
    return size


def owner(model: Model, layer: Layer) -> Layer:
    """The layer whose cache `layer` reads."""
    return layer if layer.shares_kv_with is None else model.layers[layer.shares_kv_with]


def layer_dims(model: Model, layer: Layer, context: Context) -> dict[str, int]:
    """Dimensions of one layer: its attention geometry, the rows of its caches, its states."""
    found = {
        "n_head": layer.n_head,
        "n_head_kv": layer.n_head_kv,
        "head_k": layer.head_k,
        "head_v": layer.head_v,
        "n_ff": layer.n_ff,
        "n_expert_used": layer.n_expert_used,
    }
    for cache in owner(model, layer).caches:
        if cache.kind == "kv":
            found["n_kv"] = cells(cache, context)
        for which, (_, width) in zip("kv", cache_rows(model, cache, context), strict=False):
            found[f"{cache.kind}.{which}"] = width
    for i, elements in enumerate(layer.states):
        found[f"state.{i}"] = elements
    if banks := n_bank(model, layer):
        found |= {"n_bank": banks, "n_bank.in": n_bank(model, layer, before=True)}
    return found


def n_bank(model: Model, layer: Layer, *, before: bool = False) -> int:
    """Residual streams that are kept when the layer ends, or `before` it: one every few layers (kimi-k3.cpp:284-291)."""
    size = header_number(model, layer, _BANK) or 0
    return (layer.index - before) // size + 1 if size else 0


def size(model: Model, layer: Layer, name: str) -> int:
    """A size of a layer that does not depend on the reservation, or a number of the header; 0 for none."""
    if name[0] == ".":
        return header_number(model, layer, name[1:]) or 0
    return model.n_embd if name == "n_embd" else int(getattr(layer, name))


def count(model: Model, name: str) -> int:
    """A count of the whole model that the engine may branch on: of layers of the main graph, of experts, of tokens."""
    if name == "n_layer":
        return sum(not x.is_nextn for x in model.layers)
    return {"n_expert": model.n_expert, "n_vocab": model.n_vocab}[name]


def equal(model: Model, layer: Layer, one: Expression, other: Expression) -> bool | None:
    """Whether two sizes of a layer are equal; None where it has not both."""
    a, b = (evaluate(e, lambda name: size(model, layer, name)) for e in (one, other))
    return a == b if a and b else None


def traits(layer: Layer) -> tuple[str, ...]:
    """What distinguishes kinds of layers beside their weights."""
    found = [cache.kind for cache in layer.caches]
    found += ["swa"] if layer.is_swa else []
    found += ["recurrent"] if layer.is_recurrent else []
    found += ["borrows"] if layer.shares_kv_with is not None else []
    found += [f"states{len(layer.states)}"] if any(layer.states) else []
    return tuple(sorted(found))


Weights = Mapping[str, int]  # a name, for layers without "blk.<index>.": its position in Model.weights


def layer_weights(model: Model) -> list[dict[str, int]]:
    """The weights of each layer: its own, or those of the block that it runs again, with scales of its own."""
    found: list[dict[str, int]] = [{} for _ in model.layers]
    for i, weight in enumerate(model.weights):
        if isinstance(weight.home, int) and weight.home < len(found):
            prefix = f"blk.{weight.home}."
            if weight.tensor.name.startswith(prefix):
                found[weight.home][weight.tensor.name.removeprefix(prefix)] = i
    return [
        found[x.index]
        if x.block is None
        else {n: i for n, i in found[x.block].items() if not n.endswith(_SCALES)}
        | {n: i for n, i in found[x.index].items() if n.endswith(_SCALES)}
        for x in model.layers
    ]


def outer_weights(model: Model) -> dict[str, list[int]]:
    """Weights outside layers. One can have several homes: a tied embedding, RoPE factors."""
    found: dict[str, list[int]] = {}
    for i, weight in enumerate(model.weights):
        if not weight.tensor.name.startswith("blk."):
            found.setdefault(weight.tensor.name, []).append(i)
    return found


class Scope:
    """Looks up the names of one layer, or of the prologue or epilogue where `layer` is None."""

    def __init__(
        self,
        model: Model,
        run: Run | None,
        outer: Mapping[str, list[int]],
        common: Mapping[str, int],
        layer: Layer | None = None,
        own: Weights | None = None,
    ) -> None:
        self._model = model
        self._run = run
        self._outer = outer
        self._layer = layer
        self._own = own or {}
        self._dims = dict(common)
        self._truths: dict[str, bool] | None = None
        if layer is not None and run is not None:
            self._dims |= layer_dims(model, layer, run.context)

    def value(self, name: str) -> int:
        """The dimension called `name`. Raises `OutsideTemplate` for one that this model has not."""
        found = self._dims.get(name)
        if found is None:
            found = self._dims[name] = self._find(name)
        return found

    def _find(self, name: str) -> int:
        weight, _, axis = name[1:].partition(":")
        index = self._own.get(weight, -1) if name[0] == "@" else self._outer.get(weight, [-1])[0]
        if name[0] in "@$" and index >= 0:
            return (*self._model.weights[index].tensor.shape, 1, 1, 1)[int(axis)]
        number = header_number(self._model, self._layer, name[1:]) if name[0] == "." else None
        if number is None:
            raise OutsideTemplate(f"the model has no {name}")
        return number

    def truth(self, literal: str) -> bool:
        """Whether a literal of a guard holds."""
        if literal[0] == "!":
            return not self.truth(literal[1:])
        return self._condition(literal)

    def _idle_factors(self) -> str:
        """Of the two tensors of long-context RoPE factors the one that this context does not use.

        Source: llama-model.cpp:2337-2351.
        """
        if self._run is None:
            return ""
        trained = header_number(self._model, None, "rope.scaling.original_context_length")
        is_long = self._run.context.n_ctx_seq > (trained or self._model.n_ctx_train)
        return "rope_factors_short.weight" if is_long else "rope_factors_long.weight"

    def _condition(self, name: str) -> bool:
        layer, run = self._layer, self._run
        if name[0] == "@":
            return name[1:] in self._own
        if name[0] == "$":
            return name[1:] in self._outer and name[1:] != self._idle_factors()
        if name[0] == ".":
            key, _, value = name[1:].partition("=")
            return header_value(self._model, layer or self._model.layers[0], key) == value
        if name.startswith("il%"):
            period, _, rest = name[3:].partition("=")
            return layer is not None and layer.index % int(period) == int(rest)
        if name == "turn":  # of the layer that is a mixture (ernie4-5-moe.cpp:64)
            step = header_number(self._model, layer, "interleave_moe_layer_step") or 1
            return layer is not None and (layer.index + 1) % step == 0
        if name == "bank":  # of the layer that keeps its residual stream (kimi-k3.cpp:289)
            size = header_number(self._model, layer, _BANK) or 0
            return layer is not None and size > 0 and not layer.index % size
        if name in _STACKS:
            return layer is not None and name in _stack(self._model, layer)
        if name in ("bank=1", "bank=2"):
            return layer is not None and n_bank(self._model, layer) == int(name[-1])
        if name == "short_output":  # fewer rows than the vocabulary (qwen3vl.cpp:177)
            return "output.weight" in self._outer and self.value("$output.weight:1") < self._model.n_vocab
        if run is None:
            raise OutsideTemplate(f"{name} asked of a layer alone")
        if name in FUSED:
            return name in run.fused
        return self.conditions(run)[name]

    def conditions(self, run: Run) -> dict[str, bool]:
        """The conditions of a reservation and of the layer in it, by name."""
        if self._truths is None:
            self._truths = _conditions(self._model, run, run.context, self._layer, self._dims)
        return self._truths


def _conditions(
    model: Model, run: Run, c: Context, layer: Layer | None, dims: Mapping[str, int]
) -> dict[str, bool]:
    trunk = [x for x in model.layers if not x.is_nextn]
    first = trunk[0] if trunk else None
    k_all = first.head_k if first and all(x.head_k == first.head_k for x in trunk) else 0
    v_all = first.head_v if first and all(x.head_v == first.head_v for x in trunk) else 0
    index_head = header_number(model, first, "attention.indexer.key_length")
    return {
        "fa": run.flash_attn,
        "vtrans": c.v_trans,
        "kq": c.type_k.is_quantized,
        "vq": c.type_v.is_quantized,
        "kf32": c.type_k.name == "f32",
        "vf32": c.type_v.name == "f32",
        "krot": c.type_k.is_quantized and k_all > 0 and not k_all % _HADAMARD,
        "vrot": c.type_v.is_quantized and v_all > 0 and not v_all % _HADAMARD,
        "index_head": index_head is not None and first is not None and index_head == first.head_k,
        "equal_heads": header_number(model, first, "ssm.group_count")
        == header_number(model, first, "ssm.time_step_rank"),  # as many key heads as value heads
        "step": run.n_tokens == run.n_seqs,
        "single": run.n_tokens == 1,
        "slots": run.n_seqs > 1,
        "split": c.n_stream > 1,
        "gather": 0 < dims.get("n_sel", 0) < dims.get("n_kv_indexer", 0) and run.n_tokens <= _GATHERED,
        "emb": run.embeddings,
        "first": layer is not None and layer.index == 0,
        "last": layer is not None and bool(trunk) and layer is trunk[-1],
        "swa": layer is not None and layer.is_swa,
        "window": any(x.is_swa for x in trunk),
        "one_head": layer is not None and layer.n_head_kv == 1,
        "one_expert": layer is not None and layer.n_expert_used == 1,
    }


# Header values that name one of several ways; of all other numbers guards only ask whether they are zero.
_NAMES: Final = frozenset(
    (
        "expert_gating_func",
        "pooling_type",
        "rope.scaling.type",
        "attention.indexer.types",
        "attention.compress_ratios",
        "interleave_moe_layer_step",
    )
)

# Counts of which one is as good as none (llama-graph.cpp: `n_expert_groups > 1`).
_COUNTS: Final = frozenset(("expert_group_count",))
_SECTIONS: Final = "rope.dimension_sections"  # several positions a token, if the first two are used


def header_value(model: Model, layer: Layer | None, key: str) -> str:
    """A value of the header as guards write it; of an array by layer, the layer's; "" for none.

    Switches and numbers count as "yes" where they are not zero, as the engine asks for them; it also
    asks whether factors are one, and whether counts are "many".
    """
    value = model.hparams.get(key) if key == _SECTIONS else _header(model, layer, key)
    if value is None:
        return ""
    if key == _SECTIONS and isinstance(value, (list, tuple)):  # llama-hparams.cpp:352
        return "yes" if len(value) > 1 and value[0] > 0 and value[1] > 0 else "no"
    if key in _COUNTS and isinstance(value, int):
        return "many" if value > 1 else "one" if value else "no"
    if key in _NAMES or isinstance(value, str):
        return str(value)
    return "one" if value == 1.0 and isinstance(value, float) else "yes" if value else "no"


def _header(model: Model, layer: Layer | None, key: str) -> object:
    value = model.hparams.get(key)
    if isinstance(value, (list, tuple)):
        return value[layer.index] if layer is not None and len(value) > layer.index else None
    return value


def header_number(model: Model, layer: Layer | None, key: str) -> int | None:
    """A whole number of the header; of an array by layer, the layer's."""
    value = _header(model, layer, key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def is_of_layer(condition: str) -> bool:
    """Whether a condition depends on the layer alone, not on the reservation."""
    return condition[0] in "@." or condition.startswith("il%") or condition in BY_INDEX


UNKNOWN: Final = "unknown"  # a condition that no trace explains: sorted behind all that could settle it


def holds(guard: Guard, scope: Scope) -> bool:
    """Whether `guard` is true in `scope`. Raises `OutsideTemplate` where only an unknown condition decides."""
    if not guard:
        return True
    return any(_all(one, scope) for one in sorted(guard, key=lambda one: UNKNOWN in one))


def _all(literals: tuple[str, ...], scope: Scope) -> bool:
    for x in literals:
        if x != UNKNOWN and not scope.truth(x):
            return False
    if UNKNOWN in literals:
        raise OutsideTemplate("a condition that no trace explains")
    return True


def literals(guard: Guard) -> Iterator[str]:
    """The names of the conditions that `guard` asks for."""
    for one in guard:
        yield from (x.removeprefix("!") for x in one if x != UNKNOWN)
