"""Turn a header into a `Model` of plain numbers: the only place that knows the names of architectures.

In: the headers of a file's parts, first part first. Out: a `Model`. After this module nobody asks
what an architecture is called. The rules are in `table`, one entry an architecture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..._base.errors import ModelError, UnknownArchitecture
from ..._base.matches import get_close_matches
from ..._gguf import Header, Value
from ..model import Model, Tensor
from . import agreement, geometry, identity, layers, weights
from .metadata import Metadata
from .table import NOT_MODELS, ROLLBACK, TABLE, Architecture, Memory

__all__ = ["NAMES", "describe"]

NAMES: tuple[str, ...] = tuple(sorted({*TABLE, *NOT_MODELS}))


def describe(headers: Header | Sequence[Header], *, assume: str | None = None, source: str = "") -> Model:
    """Describe the model of `headers`: one header, or those of all parts of a split file in order.

    `assume` names the architecture to take in place of the header's own, whose keys are read all the
    same; `Model.assumed` records it. `source` is how messages call the file.
    Raises `UnknownArchitecture` for a name that is not in the table, and `ModelError` for metadata
    that lacks or contradicts what the engine needs.
    """
    parts = headers if isinstance(headers, Sequence) else (headers,)
    if not parts:
        raise ModelError("no header given; give at least one")
    pairs, source = parts[0].metadata, source or parts[0].name
    _check_kind(pairs, source)
    own = _own_name(pairs, source)
    name = assume or own
    arch = _entry(name, assume, source)
    meta = Metadata(pairs, own if f"{own}.block_count" in pairs else name, source, parts[0].types)
    if arch.variant and meta.number(arch.variant[0], 0):
        arch = arch._replace(**arch.variant[1])
    tensors = tuple(Tensor(t.name, t.shape, t.type) for part in parts for t in part.tensors)
    return _model(arch, meta, tensors, name, assume)


def _check_kind(pairs: Mapping[str, Value], source: str) -> None:
    kind = pairs.get("general.type", "model")
    if kind in ("adapter", "mmproj", "imatrix"):
        raise ModelError(
            f"{_where(source)}general.type = {kind!r}: not a model; give the model it belongs to"
        )


def _own_name(pairs: Mapping[str, Value], source: str) -> str:
    own = pairs.get("general.architecture", "")
    if not isinstance(own, str):
        raise ModelError(f"{_where(source)}general.architecture = {own!r} is not a string; take another file")
    return own


def _entry(name: str, assume: str | None, source: str) -> Architecture:
    if name in NOT_MODELS:
        raise ModelError(f"{_where(source)}architecture {name!r}: {NOT_MODELS[name]}")
    entry = TABLE.get(name)
    if entry is not None:
        return entry
    if not name:
        raise UnknownArchitecture(
            f"{_where(source)}general.architecture is missing; say what it is with --assume NAME"
        )
    near = ", ".join(get_close_matches(name, TABLE, n=3, cutoff=0.5))
    known = f"the nearest known are {near}" if near else f"{len(TABLE)} others are known"
    what = "assumed architecture" if assume else "architecture"
    raise UnknownArchitecture(
        f"{_where(source)}{what} {name!r} is not known to this engine build; {known}."
        " If it is built like one of those, say so with --assume NAME"
    )


def _where(source: str) -> str:
    return f"{source}: " if source else ""


def _model(
    arch: Architecture, meta: Metadata, tensors: tuple[Tensor, ...], name: str, assume: str | None
) -> Model:
    by_name = {t.name: t for t in tensors}
    g = geometry.read(arch, meta, by_name)
    made = layers.layers(arch, meta, g)
    agreement.check_heads(arch, meta, g, made)
    if assume is None:
        agreement.check_shapes(arch, meta, g, made, tensors)
    created = weights.create(arch, g, tensors, meta.source)
    return Model(
        architecture=name,
        name=identity.name(meta.pairs),
        tensors=tensors,
        weights=created.weights,
        layers=made,
        n_ctx_train=meta.require("context_length"),
        n_embd=g.n_embd,
        n_vocab=identity.vocabulary(meta, by_name, arch.is_draft),
        n_expert=g.n_expert,
        n_head_indexer=layers.indexer_heads(meta),
        file_type=identity.file_type(meta.pairs),
        rope=identity.rope(meta, g.head_k[0], by_name),
        v_width_max=max(size * heads for size, heads in zip(g.head_v, g.n_head_kv, strict=True)),
        has_cache=arch.memory is not Memory.NONE,
        is_causal=arch.is_causal and meta.flag("attention.causal", True),
        is_encoder=arch.is_encoder,
        is_mla=g.is_mla,
        same_kv_type=g.is_mla or arch.memory is Memory.COMPRESSED,
        flash_attn=arch.flash_attn,
        assumed=assume,
        hparams=meta.kept(),
        source=meta.source,
        unknown_tensors=created.unknown,
        mtp=created.mtp,
        rollback=name in ROLLBACK,
        tokenizer=identity.tokenizer(meta.pairs),
    )
