"""A `Comparison` as a table and as JSON: `vramfit compare`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from ..comparison import Choice, Comparison
from ..gpus import assumed, told_apart
from ..quality import CACHE_PR, METRIC, MODEL, README
from ..units import format_bytes
from .plans import model_name
from .tables import render_table

if TYPE_CHECKING:
    from .schema import ComparisonJson

__all__ = ["HEAD", "cells", "comparison_json", "comparison_text", "notes", "title"]

HEAD: Final = (
    "file type", "cache", "bits/weight", "size", "context", "limited by", "KLD", "cache KLD", "tokens/s", "front",
)  # fmt: skip


def comparison_text(comparison: Comparison) -> str:
    """One line a choice, then what the columns mean and where the measures come from."""
    table = render_table(HEAD, [cells(c) for c in comparison.choices], left=2)
    return "\n\n".join((title(comparison), table, "\n".join(notes(comparison))))


def title(comparison: Comparison) -> str:
    """The model and the cards."""
    model = comparison.model
    cards = " + ".join(told_apart(comparison.gpus)) or "no card"
    return " · ".join(x for x in (model_name(model), model.architecture, cards) if x)


def cells(choice: Choice) -> list[str]:
    """A choice in words, under `HEAD`."""
    names = [choice.file_type, cache_name(choice)]
    if choice.refused:
        return [*names, "", "", "refused", "", "", "", "", ""]
    return [
        *names,
        f"{choice.bits_per_weight:.2f}",
        format_bytes(choice.file_bytes),
        f"{choice.n_ctx:,}" if choice.fits else f"short of {format_bytes(choice.shortfall)}",
        choice.limited_by,
        "" if choice.measure is None else f"{choice.measure.kld:.4f}" + "i" * choice.measure.imatrix,
        "" if choice.cache_measure is None else f"{choice.cache_measure.kld:.4f}",
        "" if choice.tokens_per_second is None else f"≤ {choice.tokens_per_second:.0f}",
        "*" if choice.on_front else "",
    ]


def cache_name(choice: Choice) -> str:
    """ "q8_0", or "q8_0/q4_0" where K and V differ."""
    return choice.type_k if choice.type_k == choice.type_v else f"{choice.type_k}/{choice.type_v}"


def notes(comparison: Comparison) -> list[str]:
    """What the columns mean, their sources, and what was refused."""
    refusals = sorted(
        {f"{c.file_type} {cache_name(c)}: {c.refused}" for c in comparison.choices if c.refused}
    )
    found = [] if comparison.fits else ["Nothing fits."]
    found += [f"Warning: {w}" for w in assumed(comparison.gpus)]
    found += [
        f"KLD: {METRIC}, of {MODEL} and not of this model (i: with importance matrix).",
        f"  {README}; cache: {CACHE_PR}.",
        "tokens/s: memory bandwidth over the bytes a token reads, an upper bound.",
        "front (*): no other measured choice has a context as long, a KLD as low and a cache as wide.",
    ]
    bad = sorted({c.file_type for c in comparison.choices if c.needs_imatrix})
    found += [f"Needs an importance matrix: {', '.join(bad)}."] if bad else []
    if any(c.fits and not c.exact for c in comparison.choices):
        found.append(
            "Compute buffers are an upper bound where not exact: contexts may be larger, never smaller."
        )
    return found + [f"Refused: {r}." for r in refusals]


def comparison_json(comparison: Comparison) -> str:
    """The JSON object of `vramfit compare --json` (see docs/json.md)."""
    return as_schema(comparison).model_dump_json(indent=2)


def as_schema(comparison: Comparison) -> ComparisonJson:
    """The pydantic object behind `comparison_json`."""
    from .schema import ChoiceJson, ComparisonJson, settings_json

    model = comparison.model
    return ComparisonJson(
        model=model.source or model.name,
        architecture=model.architecture,
        gpus=list(told_apart(comparison.gpus)),
        margin=comparison.margin_bytes,
        fits=comparison.fits,
        warnings=list(assumed(comparison.gpus)),
        choices=[ChoiceJson(**asdict(c)) for c in comparison.choices],
        settings=settings_json(comparison.settings),
    )
