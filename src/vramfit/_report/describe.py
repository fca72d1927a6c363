"""Write what a header says of a model, as a page and as JSON: `vramfit inspect`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._base.foreign import json_text
from .._base.units import format_bytes
from .._llama.cparams import resolve
from .._llama.memory import cache_rows
from .._llama.model import Cells, Layer, Model
from .._llama.params import Settings
from .._planner.warnings import rope_sentence
from .look import PLAIN, Look
from .tables import render_facts, render_table

if TYPE_CHECKING:
    from .._sources import Resolved
    from .schema import ModelJson

__all__ = [
    "LayerKind",
    "facts",
    "kinds_table",
    "layer_kinds",
    "model_as_schema",
    "model_json",
    "model_text",
    "types_table",
]


@dataclass(frozen=True, slots=True)
class LayerKind:
    """Layers that share one attention geometry, and what a token of context costs in them (bytes)."""

    name: str
    layers: tuple[Layer, ...]
    window: int
    cache_bytes_per_token: int  # all layers of this kind, f16, one slot
    state_bytes_per_slot: int

    @property
    def example(self) -> Layer:
        """One of the layers: they are alike."""
        return self.layers[0]


def layer_kinds(model: Model) -> tuple[LayerKind, ...]:
    """Group the layers of a model by kind, in the order of their first layer."""
    groups: dict[tuple[object, ...], list[Layer]] = {}
    for layer in model.layers:
        key = (
            _kind_name(layer),
            layer.n_head,
            layer.n_head_kv,
            layer.head_k,
            layer.head_v,
            layer.caches,
            layer.states,
        )
        groups.setdefault(key, []).append(layer)
    return tuple(_kind(model, tuple(layers)) for layers in groups.values())


def _kind(model: Model, layers: tuple[Layer, ...]) -> LayerKind:
    layer = layers[0]
    context = resolve(model, Settings(n_ctx=256, flash_attn="on" if model.flash_attn else "off"))
    full = [c for c in layer.caches if c.cells is Cells.FULL]
    token = sum(kind.row_bytes(width) for c in full for kind, width in cache_rows(model, c, context))
    return LayerKind(
        name=_kind_name(layer),
        layers=layers,
        window=max((c.window for c in layer.caches), default=0),
        cache_bytes_per_token=token * len(layers),
        state_bytes_per_slot=sum(layer.states) * 4 * len(layers),
    )


def _kind_name(layer: Layer) -> str:
    if layer.is_nextn:
        return "next-token prediction"
    names = []
    if layer.is_recurrent or layer.states:
        names.append("recurrent")
    if layer.shares_kv_with is not None:
        names.append("shared cache")
    elif any(c.cells is Cells.WINDOW for c in layer.caches):
        names.append("sliding window")
    elif any(c.cells is Cells.COMPRESSED for c in layer.caches):
        names.append("compressed")
    elif layer.caches:
        names.append("latent" if not layer.caches[0].has_v else "full attention")
    return " + ".join(names) or "no cache"


def facts(model: Model) -> list[tuple[str, str]]:
    """List identity, size and context, each under its name."""
    kinds = layer_kinds(model)
    per_token = sum(k.cache_bytes_per_token for k in kinds)
    found = [
        ("name", model.name or "(none)"),
        ("architecture", model.architecture + (f" (assumed: {model.assumed})" if model.assumed else "")),
        ("file type", model.file_type or "(not said)"),
        ("parameters", f"{model.n_params:,}"),
        (
            "tensors",
            f"{len(model.tensors)}, {format_bytes(model.tensor_bytes)} ({model.tensor_bytes:,} bytes)",
        ),
        ("layers", str(model.n_layer)),
        ("embedding", str(model.n_embd)),
        ("vocabulary", f"{model.n_vocab:,}"),
        ("trained context", f"{model.n_ctx_train:,}"),
        ("RoPE scaling", _rope(model)),
        ("reach", rope_sentence(model)),
    ]
    if model.n_expert:
        found.append(("experts", f"{model.n_expert}, {max(x.n_expert_used for x in model.layers)} used"))
    found.append(("cache a token", f"{per_token:,} bytes (f16)" if model.has_cache else "none"))
    return found


def model_text(model: Model, look: Look = PLAIN) -> str:
    """Show identity, size, context, attention by kind of layer, tensor types."""
    kinds = render_table(*kinds_table(model), look=look, drop=("heads", "K/V size"))
    return "\n\n".join(
        (render_facts(facts(model), look), kinds, render_table(*types_table(model), look=look))
    )


def _rope(model: Model) -> str:
    rope = model.rope
    if rope.scaling == "none" or (rope.factor == 1.0 and rope.scaling == "linear"):
        return "none"
    original = f", original context {rope.original_context:,}" if rope.original_context else ""
    return f"{rope.scaling}, factor {rope.factor:g}{original}"


def kinds_table(model: Model) -> tuple[list[str], list[list[str]]]:
    """Make head and rows of a table: attention geometry and cache by kind of layer."""
    rows = [
        [
            kind.name,
            str(len(kind.layers)),
            str(kind.example.n_head),
            str(kind.example.n_head_kv),
            f"{kind.example.head_k}/{kind.example.head_v}",
            str(kind.window or ""),
            f"{kind.cache_bytes_per_token:,}",
            format_bytes(kind.state_bytes_per_slot) if kind.state_bytes_per_slot else "",
        ]
        for kind in layer_kinds(model)
    ]
    return ["layers", "count", "heads", "KV heads", "K/V size", "window", "bytes/token", "state"], rows


def types_table(model: Model) -> tuple[list[str], list[list[str]]]:
    """Make head and rows of a table: how many tensors of each type there are, and what they take."""
    count = Counter(t.type.name for t in model.tensors)
    size = Counter[str]()
    for tensor in model.tensors:
        size[tensor.type.name] += tensor.n_bytes
    rows = [[name, str(count[name]), format_bytes(n)] for name, n in size.most_common()]
    return ["tensor type", "tensors", "size"], rows


def model_json(model: Model, resolved: Resolved | None = None) -> str:
    """Write the JSON object of `vramfit inspect --json` (docs/reference/json.md), with what `resolved` says comes along."""
    return json_text(model_as_schema(model, resolved).model_dump())


def model_as_schema(model: Model, resolved: Resolved | None = None) -> ModelJson:
    """Make the pydantic object behind `model_json`."""
    from .companions import as_json
    from .schema import LayerKindJson, ModelJson, RopeJson

    kinds = layer_kinds(model)
    rope = model.rope
    return ModelJson(
        source=model.source,
        name=model.name,
        architecture=model.architecture,
        assumed=model.assumed,
        file_type=model.file_type,
        n_params=model.n_params,
        tensor_bytes=model.tensor_bytes,
        n_layer=model.n_layer,
        n_embd=model.n_embd,
        n_vocab=model.n_vocab,
        n_expert=model.n_expert,
        n_ctx_train=model.n_ctx_train,
        rope=RopeJson(
            scaling=rope.scaling, factor=rope.factor, original_context=rope.original_context,
            freq_base=rope.freq_base, dimensions=rope.dimensions,
        ),
        layer_kinds=[
            LayerKindJson(
                kind=k.name, layers=[x.index for x in k.layers], n_head=k.example.n_head,
                n_head_kv=k.example.n_head_kv, head_k=k.example.head_k, head_v=k.example.head_v,
                window=k.window, cache_bytes_per_token=k.cache_bytes_per_token,
                state_bytes_per_slot=k.state_bytes_per_slot,
            )
            for k in kinds
        ],
        cache_bytes_per_token=sum(k.cache_bytes_per_token for k in kinds),
        tensor_types=dict(Counter(t.type.name for t in model.tensors)),
        companions=as_json(resolved),
        parameters=dict(resolved.parameters) if resolved else {},
    )  # fmt: skip
