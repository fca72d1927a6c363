"""What is loaded beside a model and what a log printed of it → rows: a projector's buffers, another context, a draft's own load."""

from __future__ import annotations

from collections.abc import Iterator

from .._company import company_of
from .._estimate.company import Companion
from .._estimate.estimate import Estimate
from .._llama.model import Model
from .._logs import HOST, KINDS, Load, Size
from .compare import differences
from .nouns import Row

__all__ = ["PRINTED", "company_rows", "is_of_draft"]

PRINTED = {
    "projector": "a projector",
    "next-token layers": "another context",
}  # a companion, and what a log calls it


def is_of_draft(load: Load, model: Model) -> bool:
    """Whether a load is that of the draft beside `model`, and not of the model itself."""
    draft = company_of(model).draft
    if draft is None or not load.is_complete or load.projected:
        return False
    return bool(differences(load, model)) and not differences(load, draft.model)


def company_rows(load: Load, found: Estimate, drafted: Load | None) -> Iterator[Row]:
    """A row for each buffer of a companion that was printed; `drafted` is the draft's own load. Not judged where it is no exact figure."""
    for companion in found.company:
        for place, terms in zip(load.places, companion.gpus, strict=True):
            for kind in KINDS:
                measured = _printed(load, companion, place, kind, drafted)
                if measured is not None:
                    name = f"{companion.kind} {kind}"
                    yield Row(place, name, getattr(terms, kind), measured, companion.exact, companion.note)


def _printed(load: Load, companion: Companion, place: str, kind: str, drafted: Load | None) -> Size | None:
    """What was printed of a companion on a card; None for nothing. Of a buffer that was reserved twice the first counts."""
    if companion.kind == "draft":
        return None if drafted is None or place == HOST else drafted.sizes(place, kind)
    what = PRINTED[companion.kind]
    sizes = [b.size for b in load.beside if (b.what, b.device, b.kind) == (what, place, kind)]
    if not sizes:
        return None
    return sizes[0] if kind == "compute" else sum(sizes[1:], sizes[0])
