"""A draft model beside the one that it drafts for: the settings that the engine runs it with, and its cards.

Source: `common_base_params_to_speculative` and `common_speculative_init_result` (speculative.cpp:2446-2560).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from .._base.errors import ModelError, SettingsError, shown
from .._devices import Gpu
from .._llama.cparams import physical_batch
from .._llama.model import Model
from .._llama.params import Settings
from .._llama.speculation import spec_types
from .nouns import Draft, company_of

__all__ = [
    "check_vocabulary",
    "draft_cards",
    "draft_settings",
    "inferred",
    "is_tapped",
    "kept_for_draft",
    "kept_on_host",
    "speculation_warnings",
    "taps_of",
]

_LARGEST_DIFFERENCE: Final = 128  # SPEC_VOCAB_MAX_SIZE_DIFFERENCE
_TAPPED: Final = frozenset({"draft-eagle3", "draft-dflash", "draft-dspark"})
_TAPS: Final = 8  # layers at most whose inputs such a draft reads
# Architectures whose buffers with such outputs were the engine's (`t_layer_inp` in src/models, but for deepseek4)
_MEASURED: Final = frozenset(
    [
        "bailingmoe3",
        "gemma4",
        "gpt-oss",
        "hunyuan-dense",
        "hunyuan_vl",
        "lfm2",
        "lfm2moe",
        "llama",
        "llama-embed",
        "mimo2",
        "minimax-01",
        "minimax-m2",
        "muse-glimmer",
        "nanbeige",
        "nemotron_h",
        "nemotron_h_moe",
        "qwen3",
        "qwen35",
        "qwen35moe",
        "qwen3moe",
        "qwen3next",
        "qwen4exp",
    ]
)
_BLOCKS: Final = frozenset({"draft-dflash", "draft-dspark"})


def check_vocabulary(model: Model, draft: Model) -> None:
    """Raise `ModelError` for a draft whose vocabulary is not the model's: nearly as many tokens, of the same kind.

    Source: `common_speculative_are_compatible` (speculative.cpp:67-130), which compares the tokens too.
    """
    mine, its = model.tokenizer, draft.tokenizer
    if {mine, its}.isdisjoint(("", "none")) and mine != its:
        raise ModelError(
            f"{draft.source}: its tokenizer is {shown(its)} and the model's {shown(mine)}; give a draft of the same family"
        )
    mapped = any(t.name in ("d2t.weight", "d2t") for t in draft.tensors) or draft.n_vocab == 0
    if not mapped and abs(model.n_vocab - draft.n_vocab) > _LARGEST_DIFFERENCE:
        raise ModelError(
            f"{draft.source}: it has {draft.n_vocab:,} tokens and the model {model.n_vocab:,}; give a draft of the same family"
        )


def inferred(model: Model) -> dict[str, str]:
    """The kind of speculation that the engine takes from a draft's file when it is told none, as settings.

    Source: `common_speculative_types_from_gguf` (speculative.cpp:2272-2305).
    """
    draft = company_of(model).draft
    if draft is None:
        return {}
    names = {t.name for t in draft.model.tensors}
    if draft.model.architecture == "dflash":
        return {"spec_type": "draft-dspark" if "markov_w1.weight" in names else "draft-dflash"}
    last = f"blk.{draft.model.n_layer - 1}.nextn.eh_proj.weight"
    return {"spec_type": "draft-mtp"} if last in names else {}


def speculation_warnings(model: Model, settings: Settings) -> tuple[str, ...]:
    """What a person should know of speculation: that nothing drafts, or that what is to draft is not there."""
    draft, types = company_of(model).draft, spec_types(settings)
    found = []
    if draft is not None and not any(t.startswith("draft-") for t in types):
        found.append(
            "the draft is loaded, and this engine drafts nothing with it unless it is told how:"
            " --spec-type draft-simple, or draft-eagle3"
        )
    alone = [t for t in types if t.startswith("draft-") and t != "draft-mtp"]
    if draft is None and alone:
        found.append(
            f"--spec-type {alone[0]} needs a draft: name one with --model-draft, else the engine stops"
        )
    if is_tapped(settings) and model.architecture not in (*_MEASURED, "deepseek4"):
        found.append(
            f"{model.architecture} hands no inputs of its layers to a draft (llama-graph.cpp:1384): with such a draft this engine"
            " stops at the first token"
        )
    return tuple(found)


def kept_for_draft(model: Model, settings: Settings) -> int:
    """Bytes at most that the model's buffers on a card keep for a draft that reads the inputs of some of its layers.

    Source: `llama_set_embeddings_layer_inp` (speculative.cpp:543, 1058): these are outputs, which nothing takes over.
    """
    return _TAPS * model.n_embd * physical_batch(settings) * 4 if is_tapped(settings) else 0


def is_tapped(settings: Settings) -> bool:
    """Whether the draft reads the inputs of some of the model's layers."""
    return bool(_TAPPED & set(spec_types(settings)))


def kept_on_host(model: Model, n_batch: int, n_taps: int = _TAPS) -> int:
    """Bytes of these inputs of a whole batch, where the host reads them (`output_reserve`, llama-context.cpp:2151)."""
    return n_taps * model.n_embd * n_batch * 4


def taps_of(model: Model, draft: Model) -> tuple[int, ...]:
    """Layers whose inputs the engine keeps for a draft; none where that was not measured of the model's architecture."""
    found = draft.hparams.get("target_layers")
    n_layer = sum(not x.is_nextn for x in model.layers)
    if model.architecture not in _MEASURED or not isinstance(found, (list, tuple)):
        return ()
    inner = all(isinstance(il, int) and 0 < il < n_layer for il in found)
    return tuple(sorted(set(found))) if inner else ()


def draft_cards(draft: Draft, gpus: Sequence[Gpu]) -> tuple[int, ...]:
    """Indexes of the cards that the engine offers a draft. Raises `SettingsError` for one that is not there."""
    if draft.devices is None:
        return tuple(range(len(gpus)))
    for i in draft.devices:
        if not 0 <= i < len(gpus):
            raise SettingsError(f"draft: there is no card {i}; there are {len(gpus)}, counted from 0")
    return draft.devices


def draft_settings(draft: Draft, settings: Settings, n_ctx: int) -> Settings:
    """What a draft runs with beside a model that runs with `settings` in a context of `n_ctx` tokens.

    Most is the model's: slots, batches, flash attention, shares of the cards. It keeps one row of logits for a slot, or
    as many as it proposes where it proposes a block at once.
    """
    rows = 1 + settings.spec_draft_n_max if _BLOCKS & set(spec_types(settings)) else 1
    alone = draft.devices is not None and len(draft.devices) == 1
    return replace(
        settings,
        n_ctx=n_ctx,
        n_gpu_layers=draft.n_gpu_layers if draft.devices != () else 0,
        type_k=draft.type_k,
        type_v=draft.type_v,
        cpu_tensors=draft.cpu_tensors,
        n_outputs_max=settings.n_seq_max * rows,
        embeddings=False,
        pooling="",
        spec_type="none",
        split_mode="layer" if alone else settings.split_mode,
    )
