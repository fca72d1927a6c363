"""`Alternatives` as a table and as JSON: `vramfit plan --alternatives`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from ..alternatives import Alternative, Alternatives, cache_bits
from ..foreign import printable
from ..units import format_bytes
from .tables import render_table

if TYPE_CHECKING:
    from .schema import AlternativeJson

__all__ = ["alternative_as_schema", "alternatives_text", "changed_text", "most_text"]

HEAD: Final = ("change", "context", "tokens/s", "what it costs")


def alternatives_text(found: Alternatives, *, brief: bool = False) -> str:
    """What each change carries and costs; `brief` shows the first of each kind, and says nothing of the others."""
    rows = _wider_k(found.useful)
    if not rows:
        return _nothing(found)
    shown = list({row.kind: row for row in reversed(rows)}.values())[::-1] if brief else rows
    table = render_table(HEAD, [_cells(row) for row in shown], last_left=True)
    return "\n\n".join((_title(found), table, *([] if brief else _notes(found, rows))))


def _wider_k(rows: Sequence[Alternative]) -> list[Alternative]:
    """Of cache types that are as wide together, those whose K is wider (they come first); everything else."""
    first: dict[object, Alternative] = {}
    for row in rows:
        s = row.plan.settings
        first.setdefault(cache_bits(s) if row.kind == "cache types" else row.flags, row)
    return [row for row in rows if row in first.values()]


def _title(found: Alternatives) -> str:
    slot = " of each slot" if found.asked.settings.n_seq_max > 1 else ""
    order = f", in the order of --prefer {found.prefer}" if found.prefer else ""
    return f"Alternatives: the context{slot} with one change{order}."


def _nothing(found: Alternatives) -> str:
    if found.asked.fits:
        return f"No single change carries more context: it is limited by {printable(found.asked.limited_by)}."
    return "No single change makes it fit; --prefer tries several together."


def _cells(row: Alternative) -> list[str]:
    speed = "" if row.tokens_per_second is None else f"≤ {row.tokens_per_second:.0f}"
    return [row.flags, contexts(row), speed, "; ".join(row.costs) or "nothing known"]


def contexts(row: Alternative) -> str:
    """ "94,720 → 160,256"; before is "none" where nothing fits as asked."""
    return f"{row.before:,} → {row.n_ctx:,}" if row.before else f"none → {row.n_ctx:,}"


def _notes(found: Alternatives, rows: Sequence[Alternative]) -> Iterable[str]:
    rest = Counter(row.kind for row in found.rows if row.gain <= 0)
    if rest:
        yield f"Tried without gain: {', '.join(f'{kind} ({n})' for kind, n in rest.items())}."
    if any(row.tokens_per_second is not None for row in rows):
        yield "tokens/s: memory bandwidth over the weights a token reads, an upper bound."
    if not all(row.exact for row in rows):
        yield "Compute buffers are an upper bound where not exact: contexts may be larger, never smaller."


def most_text(found: Alternatives) -> str:
    """The changes that buy the most context, in a sentence."""
    most = found.most()
    if not most:
        return _nothing(found)
    said = "; ".join(f"{row.flags} ({contexts(row)}{_share(row)})" for row in most)
    return f"Most context for one change: {said}."


def _share(row: Alternative) -> str:
    return f", {format_bytes(row.host_bytes)} a token read by the host" if row.host_bytes else ""


def changed_text(chosen: Alternative, prefer: str) -> str:
    """What a preference changed, in a sentence."""
    if not chosen.flags:
        kept = "already keeps it" if chosen.fits else "finds nothing that fits"
        return f"--prefer {prefer} {kept}: nothing is changed."
    return f"--prefer {prefer} changes {chosen.flags}: {'; '.join(chosen.costs) or 'no cost is known'}."


def alternative_as_schema(row: Alternative) -> AlternativeJson:
    """The pydantic object of one alternative."""
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
