"""Write `Alternatives` as a table and as JSON: `vramfit plan --alternatives`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from .._base.foreign import json_text, printable
from .._base.units import format_bytes
from .._planner.plan import Plan
from .._planner.whatif import Alternative, Alternatives, cache_bits
from .look import PLAIN, Look
from .tables import render_table

if TYPE_CHECKING:
    from .._planner.gives_up import GivesUp
    from .schema import AlternativeJson, AlternativesJson

__all__ = [
    "HEAD",
    "alternative_answer",
    "alternative_as_schema",
    "alternative_text",
    "alternatives_as_schema",
    "alternatives_text",
    "cells",
    "changed_text",
    "more_text",
    "most_text",
    "notes",
    "nothing_text",
    "plan_json",
    "title",
    "worth_showing",
]

HEAD: Final = ("change", "context", "tokens/s", "what it costs")


def alternatives_text(
    found: Alternatives, look: Look = PLAIN, *, brief: bool = False, everything: bool = False
) -> str:
    """Show the context and cost of each change that a person can choose among; of all with `everything`.

    `brief` shows the first of each kind, and says nothing of the others.
    """
    rows = worth_showing(found, brief=brief, everything=everything)
    if not rows:
        return look.paragraph(nothing_text(found))
    table = render_table(HEAD, [cells(row) for row in rows], last_left=True, look=look)
    if (more := len(_wider_k(found.useful)) - len(rows)) and not brief:
        table += "\n" + look.paragraph(f"{more_text(more)}; --all lists them.")
    said = [] if brief else [look.paragraph(note) for note in notes(found, rows)]
    return "\n\n".join((look.paragraph(title(found), "strong"), table, *said))


def worth_showing(found: Alternatives, *, brief: bool = False, everything: bool = False) -> list[Alternative]:
    """Select the useful changes that a person can choose among.

    Of a kind whose costs are published for some of its changes, those, the first, and the one that reaches the largest context;
    of another kind all. `brief`: the first of each kind; `everything`: all.
    """
    rows = _wider_k(found.useful)
    if everything:
        return rows
    first = {row.kind: row for row in reversed(rows)}
    if brief:
        return list(first.values())[::-1]
    most = {row.kind: row for row in sorted(rows, key=lambda row: row.n_ctx)}
    return [row for row in rows if _is_known(row) or row in (first[row.kind], most[row.kind])]


def _is_known(row: Alternative) -> bool:
    """Whether it is known what a change costs: a narrower cache costs what somebody measured, or nobody knows."""
    return row.kind != "cache types" or row.measure is not None


def _wider_k(rows: Sequence[Alternative]) -> list[Alternative]:
    """Keep one pair of cache types of each width, the one with the wider K, which comes first; keep all else."""
    first: dict[object, Alternative] = {}
    for row in rows:
        s = row.plan.settings
        first.setdefault(cache_bits(s) if row.kind == "cache types" else row.flags, row)
    return [row for row in rows if row in first.values()]


def title(found: Alternatives) -> str:
    """Say what the table shows, and in which order."""
    slot = " of each slot" if found.asked.settings.n_seq_max > 1 else ""
    order = f", in the order of --prefer {found.prefer}" if found.prefer else ""
    return f"Alternatives: the context{slot} with one change{order}."


def nothing_text(found: Alternatives) -> str:
    """Say that no change helps."""
    if found.asked.fits:
        return f"No single change allows more context: it is limited by {printable(found.asked.limited_by)}."
    return "No single change makes it fit; --prefer tries several together."


def cells(row: Alternative) -> list[str]:
    """Put a change in words, under `HEAD`."""
    speed = "" if row.tokens_per_second is None else f"≤ {row.tokens_per_second:.0f}"
    return [row.flags, contexts(row), speed, "; ".join(row.costs) or "nothing known"]


def contexts(row: Alternative) -> str:
    """Write "94,720 → 160,256"; before is "none" where nothing fits as asked."""
    return f"{row.before:,} → {row.n_ctx:,}" if row.before else f"none → {row.n_ctx:,}"


def notes(found: Alternatives, rows: Sequence[Alternative]) -> Iterable[str]:
    """Say what was tried for nothing, and what the columns mean."""
    rest = Counter(row.kind for row in found.rows if row.gain <= 0)
    if rest:
        yield f"Tried without gain: {', '.join(f'{kind} ({n})' for kind, n in rest.items())}."
    if any(row.tokens_per_second is not None for row in rows):
        yield "tokens/s: memory bandwidth over the weights a token reads, an upper bound."
    if not all(row.exact for row in rows):
        yield "Compute buffers are an upper bound where not exact: contexts may be larger, never smaller."


def more_text(more: int) -> str:
    """Say how many changes are not shown."""
    return f"... and {more} more, whose cost nobody has published"


def most_text(found: Alternatives) -> str:
    """Name the changes that buy the most context, in a sentence."""
    most = found.most()
    if not most:
        return nothing_text(found)
    said = "; ".join(f"{row.flags} ({contexts(row)}{_share(row)})" for row in most)
    return f"Most context for one change: {said}."


def _share(row: Alternative) -> str:
    return f", {format_bytes(row.host_bytes)} a token read by the host" if row.host_bytes else ""


def changed_text(chosen: Alternative, prefer: str) -> str:
    """Say what a preference changed, in a sentence."""
    if not chosen.flags:
        kept = "already keeps it" if chosen.fits else "finds nothing that fits"
        return f"--prefer {prefer} {kept}: nothing is changed."
    return f"--prefer {prefer} changes {chosen.flags}: {'; '.join(chosen.costs) or 'no cost is known'}."


def alternative_text(row: Alternative, look: Look = PLAIN) -> str:
    """Show what is changed and what that costs, and the plan that it makes."""
    from .plans import plan_text

    return f"{look.paragraph(alternative_answer(row), 'strong')}\n\n{plan_text(row.plan, look)}"


def alternative_answer(row: Alternative) -> str:
    """Say what is changed and what that costs."""
    costs = "; ".join(row.costs) or "no cost is known"
    return f"Changed: {row.flags}; {costs}." if row.flags else "Nothing is changed."


def alternatives_as_schema(found: Alternatives) -> AlternativesJson:
    """Make the pydantic object of a table of alternatives."""
    from .plans import plan_as_schema
    from .schema import AlternativesJson

    rows = [alternative_as_schema(row) for row in found.rows]
    return AlternativesJson(asked=plan_as_schema(found.asked), prefer=found.prefer, alternatives=rows)


def alternative_as_schema(row: Alternative) -> AlternativeJson:
    """Make the pydantic object of one alternative."""
    from .schema import AlternativeJson, MeasureJson, settings_json

    return AlternativeJson(
        kind=row.kind,
        flags=row.flags,
        before=row.before,
        n_ctx=row.n_ctx,
        fits=row.fits,
        exact=row.exact,
        shortfall=row.plan.shortfall,
        tensor_split=list(row.plan.tensor_split),
        costs=list(row.costs),
        host_bytes=row.host_bytes,
        tokens_per_second=row.tokens_per_second,
        measure=MeasureJson(**asdict(row.measure)) if row.measure else None,
        settings=settings_json(row.plan.settings),
    )


def plan_json(
    plan: Plan,
    engine: str | None = None,
    *,
    prefer: str | None = None,
    changed: Alternative | None = None,
    alternatives: Alternatives | None = None,
    ignored: Sequence[str] = (),
    host_bandwidth_gbs: float | None = None,
    given_up: GivesUp | None = None,
) -> str:
    """Write the JSON object of `vramfit plan --json` (docs/reference/json.md); for an engine, with what to run there.

    `changed` is what `prefer` made of the settings, `ignored` the flags that were typed and size nothing;
    `host_bandwidth_gbs` is for the bounds of the speed, `given_up` what was asked about a next model.
    """
    from .left import gives_up_as_schema
    from .plans import plan_as_schema

    rows = None if alternatives is None else [alternative_as_schema(row) for row in alternatives.rows]
    found = plan_as_schema(plan, host_bandwidth_gbs).model_copy(
        update={
            "prefer": prefer,
            "changed": None if changed is None else alternative_as_schema(changed),
            "alternatives": rows,
            "ignored": list(ignored),
            "gives_up": given_up and gives_up_as_schema(given_up),
        }
    )
    if engine is not None and plan.fits:
        text = plan.modelfile(engine) if engine.startswith("ollama") else None
        found = found.model_copy(
            update={"engine": engine, "command": plan.command(engine), "modelfile": text}
        )
    return json_text(found.model_dump())
