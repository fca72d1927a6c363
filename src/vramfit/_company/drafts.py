"""A draft model beside the one that it drafts for: the settings that the engine runs it with, and its cards.

Source: `common_base_params_to_speculative` and `common_speculative_init_result` (speculative.cpp:2446-2560).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from .._base.errors import SettingsError
from .._devices import Gpu
from .._llama.params import Settings
from .._llama.speculation import spec_types
from .nouns import Draft

__all__ = ["draft_cards", "draft_settings"]

_BLOCKS: Final = frozenset({"draft-dflash", "draft-dspark"})


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
        spec_type="none",
        split_mode="layer" if alone else settings.split_mode,
    )
