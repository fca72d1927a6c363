"""What speculative decoding asks of the model that it speeds up: rows of logits, and states to go back to.

In: `Settings`. Out: counts. The draft itself, a model or a context of its own, is none of this module's business.
Source: `common_speculative_n_max` (speculative.cpp:2318), `need_n_rs_seq` (common.h:396),
`common_speculative_get_output_limits` (speculative.cpp:2586).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from .._base.errors import EngineRefusal
from .._base.memo import Memo
from .model import Cache, Cells, Layer, Model
from .params import SPEC_TYPES, Settings

__all__ = [
    "blocks_of",
    "drafted",
    "kept_rows",
    "loaded",
    "next_tokens",
    "predicts",
    "snapshots",
    "spec_types",
    "tokens_per_pass",
]

# Tokens that a method without a draft model proposes at most, unless told otherwise (common.h:354-369).
_GRAMS: Final = {
    "ngram-simple": 48,
    "ngram-map-k": 48,
    "ngram-map-k4v": 48,
    "ngram-mod": 64,
    "ngram-cache": 8,
}
_GOES_BACK: Final = frozenset({"draft-mtp", "draft-eagle3", "draft-dflash", "draft-dspark"})


def predicts(settings: Settings) -> bool:
    """Whether next-token-prediction blocks are loaded and run (load_mtp)."""
    return "draft-mtp" in settings.spec_type and "draft-mtp" in spec_types(settings)


def loaded(model: Model, settings: Settings) -> Model:
    """The model with the weights of its next-token-prediction blocks, where these are loaded."""
    if not model.mtp or not predicts(settings):
        return model
    return _LOADED.get(model, None, lambda: replace(model, weights=(*model.weights, *model.mtp), mtp=()))


_LOADED: Final[Memo[Model]] = Memo(8)


def next_tokens(model: Model, block: int = 0) -> Model:
    """The model as the context of its next-token-prediction blocks sees it: only these have caches, and one of them runs.

    It is the first whenever buffers are reserved; the others (`block`) run after it. Of a model of nothing else all run. Raises `EngineRefusal` for a model without
    such blocks (llama-context.cpp:3880).
    """
    if not any(x.is_nextn for x in model.layers):
        raise EngineRefusal("model doesn't contain MTP layers; leave out draft-mtp")
    latent = next((c for x in model.layers for c in x.caches if model.is_mla and c.kind == "kv"), None)
    window = max((c.window for x in model.layers for c in x.caches), default=0)
    blocks = blocks_of(model)
    runs = blocks[block] if blocks else None
    turned = lambda: replace(  # noqa: E731
        model, layers=tuple(_turned(x, latent, window, runs) for x in model.layers), company=None
    )
    return _NEXT.get(model, block, turned)


def blocks_of(model: Model) -> tuple[int, ...]:
    """List the layers that are next-token-prediction blocks behind others; none where the model is nothing else."""
    found = tuple(x.index for x in model.layers if x.is_nextn)
    return found if len(found) < len(model.layers) else ()


_NEXT: Final[Memo[Model]] = Memo(8)


def _turned(layer: Layer, latent: Cache | None, window: int, runs: int | None) -> Layer:
    if not layer.is_nextn:
        return replace(layer, caches=(), states=(), is_nextn=True, shares_kv_with=None)
    kv = latent or Cache("kv", layer.head_k * layer.n_head_kv, layer.head_v * layer.n_head_kv)
    if layer.is_swa and window:
        kv = kv._replace(cells=Cells.WINDOW, window=window)
    return replace(
        layer, caches=(kv,), states=(), is_nextn=runs not in (None, layer.index), is_recurrent=False
    )


def spec_types(settings: Settings) -> tuple[str, ...]:
    """The methods that are on; one that is `none` turns off all."""
    types = tuple(settings.spec_type.split(","))
    assert all(t in SPEC_TYPES for t in types)
    return () if "none" in types else types


def drafted(settings: Settings) -> int:
    """Tokens that are proposed at once, at most; 0 without speculative decoding."""
    return max((_GRAMS.get(t, settings.spec_draft_n_max) for t in spec_types(settings)), default=0)


def tokens_per_pass(settings: Settings) -> int:
    """Count the tokens of one sequence that a pass through the model gives, at most: its own, and all that were proposed."""
    return 1 + drafted(settings)


def kept_rows(settings: Settings) -> int:
    """Rows of logits that llama-server keeps of a batch: for each slot one, and one for each token proposed."""
    return min(settings.n_batch, settings.n_seq_max * (1 + drafted(settings)))


def snapshots(settings: Settings) -> int:
    """Recurrent states that each sequence keeps beside its own, to go back to (n_rs_seq)."""
    return settings.spec_draft_n_max if _GOES_BACK & set(spec_types(settings)) else 0
