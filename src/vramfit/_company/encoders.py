"""A projector beside a model: its card, whether its rows are the model's, and what a person should know of it.

Source: `mtmd_context` (mtmd.cpp:590-640), the device in common/arg.cpp:889-893 and `clip_ctx` (clip.cpp:181-200).
"""

from __future__ import annotations

from collections.abc import Sequence

from .._base.errors import ModelError, SettingsError
from .._base.units import format_bytes
from .._devices import Gpu
from .._llama.model import Model
from .._mtmd import Reserve, reserve
from .nouns import Encoder, company_of

__all__ = ["check_rows", "encoder_card", "encoder_warnings"]


def encoder_card(encoder: Encoder, gpus: Sequence[Gpu]) -> int | None:
    """Index of the card that a projector is on; None for the host. Raises `SettingsError` for one that is not there."""
    if not encoder.offload or not gpus:
        return None
    at = encoder.device or 0
    if at >= len(gpus):
        raise SettingsError(f"mmproj: there is no card {at}; there are {len(gpus)}, counted from 0")
    return at


def check_rows(model: Model, encoder: Encoder) -> None:
    """Raise `ModelError` for a projector that makes rows of another width than the model's embeddings."""
    deeper = model.hparams.get("n_deepstack_layers", 0)
    known = {model.n_embd, model.n_embd * (1 + deeper)} if isinstance(deeper, int) else {model.n_embd}
    for width in reserve(encoder.projector, None).widths:
        if width not in known:
            raise ModelError(
                f"{encoder.projector.source}: it makes rows of {width:,} elements, and the model takes {max(known):,};"
                " give the mmproj file that belongs to the model"
            )


def encoder_warnings(model: Model, found: Reserve | None) -> tuple[str, ...]:
    """What is not in the figures: images may be larger than what the engine reserves for at its start."""
    if company_of(model).encoder is None or found is None or not found.later:
        return ()
    tokens = f", {found.tokens:,} tokens of the context" if found.tokens else ""
    return (
        f"the projector reserves for a smaller image than it takes: the largest{tokens} needs"
        f" {format_bytes(found.later)} more, out of the margin",
    )
