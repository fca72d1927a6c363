"""Write a `Comparison` as a table and as JSON: `vramfit compare`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from .._base.foreign import json_text, printable
from .._base.units import format_bytes
from .._devices import assumed, told_apart
from .._planner.compare import Choice, Comparison
from .._planner.older import era_title
from .._planner.quality import CACHE_PR, METRIC, MODEL, README
from .look import PLAIN, Look, Marked
from .plans import model_name
from .tables import render_table

if TYPE_CHECKING:
    from .schema import ComparisonJson

__all__ = [
    "HEAD",
    "LEAST",
    "NOTHING",
    "cells",
    "comparison_as_schema",
    "comparison_json",
    "comparison_text",
    "more_text",
    "notes",
    "title",
    "worth_showing",
]

HEAD: Final = (
    "file type", "cache", "bits/weight", "size", "context", "limited by", "KLD", "cache KLD", "tokens/s", "front",
)  # fmt: skip

LEAST: Final = (
    "limited by",
    "bits/weight",
    "cache KLD",
    "size",
    "front",
    "tokens/s",
)  # left out first where it is narrow
NOTHING: Final = "Nothing fits."
SHOWN: Final = 12  # choices that are listed whole


def comparison_text(comparison: Comparison, look: Look = PLAIN, *, everything: bool = False) -> str:
    """Show one line a choice, then what the columns mean and where the measures come from.

    Of many choices those that a person can choose among, or all with `everything`.
    """
    rows = comparison.choices if everything else worth_showing(comparison)
    table = render_table(HEAD, [cells(c) for c in rows], left=2, look=look, drop=LEAST)
    if more := len(comparison.choices) - len(rows):
        table += "\n" + look.paragraph(f"{more_text(more)}; --all lists them.")
    said = "\n".join(look.paragraph(note) for note in notes(comparison))
    answer = [] if comparison.fits else [look.paragraph(NOTHING, "bad")]
    return "\n\n".join((*answer, look.paragraph(title(comparison)), table, said))


def worth_showing(comparison: Comparison) -> tuple[Choice, ...]:
    """Select the choices that a person can choose among: the front, and of each file type the best that is measured.

    Few choices are shown whole.
    """
    if len(comparison.choices) <= SHOWN:
        return comparison.choices
    best: dict[str, Choice] = {}
    for choice in comparison.choices:
        known = best.setdefault(choice.file_type, choice)
        best[choice.file_type] = max(known, choice, key=_goodness)  # the first of equals: the widest cache
    return tuple(c for c in comparison.choices if c.on_front or c is best[c.file_type])


def _goodness(choice: Choice) -> tuple[bool, bool, bool, int, int]:
    """Rank a choice: one that fits, then one with a measured cache, then the context."""
    measured = choice.fits and choice.cache_measure is not None
    return not choice.refused, choice.fits, measured, choice.n_ctx if choice.fits else 0, -choice.shortfall


def more_text(more: int) -> str:
    """Say how many choices are not shown."""
    return f"... and {more} more, which others beat or whose cache nobody has measured"


def title(comparison: Comparison) -> str:
    """Name the model and the cards."""
    model = comparison.model
    cards = " + ".join(told_apart(comparison.gpus)) or "no card"
    return " · ".join(printable(x) for x in (model_name(model), model.architecture, cards) if x)


def cells(choice: Choice) -> list[str]:
    """Put a choice in words, under `HEAD`."""
    names = [choice.file_type, cache_name(choice)]
    if choice.refused:
        return [*names, "", "", Marked("refused", "warn"), "", "", "", "", ""]
    return [
        *names,
        f"{choice.bits_per_weight:.2f}",
        format_bytes(choice.file_bytes),
        _context(choice),
        choice.limited_by,
        "" if choice.measure is None else f"{choice.measure.kld:.4f}" + "i" * choice.measure.imatrix,
        "" if choice.cache_measure is None else f"{choice.cache_measure.kld:.4f}",
        "" if choice.tokens_per_second is None else f"≤ {choice.tokens_per_second:.0f}",
        "*" if choice.on_front else "",
    ]


def _context(choice: Choice) -> str:
    if not choice.fits:
        return Marked(f"short of {format_bytes(choice.shortfall)}", "bad")
    return Marked(f"{choice.n_ctx:,}", "strong" if choice.on_front else "")


def cache_name(choice: Choice) -> str:
    """Write "q8_0", or "q8_0/q4_0" where K and V differ."""
    return choice.type_k if choice.type_k == choice.type_v else f"{choice.type_k}/{choice.type_v}"


def notes(comparison: Comparison) -> list[str]:
    """Say what the columns mean, their sources, and what was refused."""
    refusals = sorted(
        {f"{c.file_type} {cache_name(c)}: {c.refused}" for c in comparison.choices if c.refused}
    )
    found = [f"Warning: {w}" for w in assumed(comparison.gpus)]
    found += [
        f"KLD: {METRIC}, of {MODEL} and not of this model (i: with importance matrix).",
        f"  {README}; cache: {CACHE_PR}.",
        "tokens/s: memory bandwidth over the bytes a token reads, an upper bound.",
        "front (*): no other measured choice has a context as long and a KLD, of weights and cache together, as low.",
    ]
    found.append(f"What is not said is as {comparison.settings.defaults} has it.")
    found.append(f"Counted by the rules of llama.cpp {era_title(comparison.settings.engine_build)}.")
    bad = sorted({c.file_type for c in comparison.choices if c.needs_imatrix})
    found += [f"Needs an importance matrix: {', '.join(bad)}."] if bad else []
    if any(c.fits and not c.exact for c in comparison.choices):
        found.append(
            "Compute buffers are an upper bound where not exact: contexts may be larger, never smaller."
        )
    return found + [printable(f"Refused: {r}.") for r in refusals]


def comparison_json(comparison: Comparison, ignored: Sequence[str] = ()) -> str:
    """Write the JSON object of `vramfit compare --json` (see docs/reference/json.md); `ignored` are flags that size nothing."""
    return json_text(comparison_as_schema(comparison).model_dump() | {"ignored": list(ignored)})


def comparison_as_schema(comparison: Comparison) -> ComparisonJson:
    """Make the pydantic object behind `comparison_json`."""
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
        era=era_title(comparison.settings.engine_build),
    )
