"""Write results as HTML: a fragment for notebooks, and a page that needs nothing but itself.

Everything a model or a caller named is escaped. No script, no font, no address: a page can be mailed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from .._base.foreign import html_text
from .._estimate.estimate import Estimate
from .._llama.model import Model
from .._planner.bounds import Speed, speed_of
from .._planner.compare import Choice, Comparison
from .._planner.plan import Plan
from .._planner.shared import SharedPlan
from .._planner.whatif import Alternative, Alternatives
from .._planner.which import Carrier, Shortlist
from .._verify import Verification
from . import (
    alternatives,
    comparisons,
    describe,
    grids,
    machines,
    plans,
    shared_facts,
    shortlist,
    speeds,
    verifications,
)
from .bars import bars
from .left import TITLE, leaves_sentence, left_head, left_rows
from .look import Mark, mark_of
from .safety import notes
from .shared_notes import shared_notes
from .stacks import stacked_bars
from .style import PAGE_STYLE, SHARED_STYLE, STYLE
from .svg import Point, mark, scatter

__all__ = ["fragment", "page"]

MOST: Final = (
    2  # of the columns that matter least go first, where it is narrow; the others where it is narrower
)


def page(result: object, others: Alternatives | None = None, host_bandwidth_gbs: float | None = None) -> str:
    """Write one self-contained HTML document; `others` stand under a plan, whose host reads so many GB/s.

    Raises `TypeError` for anything but a result.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>vramfit</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{PAGE_STYLE}</style></head>\n<body>{fragment(result, others, host_bandwidth_gbs)}</body></html>\n"
    )


def fragment(
    result: object, others: Alternatives | None = None, host_bandwidth_gbs: float | None = None
) -> str:
    """Write what a notebook shows of a result."""
    if isinstance(result, Plan):
        shown = _plan(result, host_bandwidth_gbs)
    elif isinstance(result, SharedPlan):
        shown = _shared(result, host_bandwidth_gbs)
    else:
        shown = _body(result)
    body = [*shown, *(_alternatives(others) if others else ())]
    return f'<div class="vramfit"><style>{STYLE}</style>{"".join(body)}</div>'


def _body(result: object) -> Iterable[str]:
    for kind, shown in _BODIES.items():
        if isinstance(result, kind):
            return shown(result)
    from .._planner.sweep import Sweep

    if isinstance(result, Sweep):
        return _sweep(result)
    raise TypeError(f"{type(result).__name__} is not a result that vramfit shows")


def _plan(plan: Plan, host_bandwidth_gbs: float | None = None) -> Iterable[str]:
    yield _title(plans.title(plan))
    yield _answer(plans.verdict(plan), plan.fits)
    yield from (_said(f"Warning: {warning}", "warn") for warning in plan.warnings)
    yield from _devices(plan.estimate, plan.margin_bytes)
    yield _note(plans.settings_line(plan))
    yield from _machines(plan)
    yield from map(_note, notes(plan))
    if left := leaves_sentence(plan):
        yield _note(left)
    if plan.fits:
        yield from _speed(speed_of(plan, host_bandwidth_gbs))


def _left(plan: SharedPlan) -> Iterable[str]:
    yield _note(leaves_sentence(plan))
    if rows := left_rows(plan):
        yield _note(TITLE)
        yield _table(left_head(plan), rows, words=True)


def _shared(plan: SharedPlan, host_bandwidth_gbs: float | None = None) -> Iterable[str]:
    said = shared_notes(plan, host_bandwidth_gbs)
    yield f"<style>{SHARED_STYLE}</style>"
    yield _title(", ".join(shared_facts.names(plan)))
    yield _answer(shared_facts.verdict(plan), plan.fits)
    yield from (_said(text, "bad") for text in shared_facts.missing(plan))
    yield from (_said(text, mark_of(text)) for text in said.common if mark_of(text))
    yield stacked_bars(plan)
    head, *rows = shared_facts.model_rows(plan)
    yield _table(head, rows, words=True)
    head, *rows = shared_facts.device_rows(plan)
    yield _table(head, rows, unit=head[0])
    if plan.loaded:
        yield from _left(plan)
    yield from (_note(text) for text in said.common if not mark_of(text))
    for title, notes_of_it in said.models:
        yield f"<h2>{html_text(title)}</h2>"
        yield from (_said(text, mark_of(text)) if mark_of(text) else _note(text) for text in notes_of_it)


def _speed(speed: Speed) -> Iterable[str]:
    """Say the bounds of the speed, and show their terms."""
    yield _note(speeds.speed_sentence(speed))
    head, *rows = speeds.speed_rows(speed)
    yield _more("what the bounds are made of", _table(head, rows))


def _machines(plan: Plan) -> Iterable[str]:
    commands = machines.server_commands(plan.gpus)
    if not commands:
        return
    head, *rows = machines.machine_rows(plan)
    yield _table(head, rows)
    yield _note(machines.network_sentence(plan))
    yield from (_note(f"On {name}: {command}") for name, command in commands)


def _estimate(estimate: Estimate) -> Iterable[str]:
    yield _answer(plans.estimate_answer(estimate), estimate.fits)
    yield from _devices(estimate, 0)


def _devices(estimate: Estimate, margin: int) -> Iterable[str]:
    """Draw bars, a row for each device, and say what is not exact of them."""
    yield bars([*estimate.gpus, estimate.host], margin)
    head, *rows = map(list, zip(*plans.device_rows(estimate, margin), strict=True))
    yield _table(head, rows, unit=head[0])
    for note in plans.company_notes(estimate):
        yield _note(note)
    if not estimate.compute_exact:
        yield _note(f"Compute buffers are an upper bound, not exact: {estimate.compute_note}.")


def _alternative(row: Alternative) -> Iterable[str]:
    yield _said(alternatives.alternative_answer(row), "strong")
    yield from _plan(row.plan)


def _alternatives(found: Alternatives) -> Iterable[str]:
    rows = alternatives.worth_showing(found)
    if not rows:
        yield _said(alternatives.nothing_text(found))
        return
    yield f"<h2>{html_text(alternatives.title(found))}</h2>"
    yield _table(alternatives.HEAD, [alternatives.cells(row) for row in rows], words=True)
    rest = [row for row in alternatives.worth_showing(found, everything=True) if row not in rows]
    if rest:
        table = _table(alternatives.HEAD, [alternatives.cells(row) for row in rest], words=True)
        yield _more(alternatives.more_text(len(rest)), table)
    yield from map(_note, alternatives.notes(found, rows))


def _comparison(comparison: Comparison) -> Iterable[str]:
    yield _title(comparisons.title(comparison))
    if not comparison.fits:
        yield _answer(comparisons.NOTHING, fits=False)
    fitting = [c for c in comparison.choices if c.fits]
    if fitting:
        groups = list(dict.fromkeys(comparisons.cache_name(c) for c in fitting))
        points = [_point(c, groups) for c in fitting]
        yield scatter(points, "bits per weight", "largest context in tokens")
        yield f'<p class="note">{"".join(_group(i, name) for i, name in enumerate(groups))}</p>'
        yield _note("Ringed points are on the front.")
    rows = comparisons.worth_showing(comparison)
    yield _choices(rows)
    rest = [c for c in comparison.choices if c not in rows]
    if rest:
        yield _more(comparisons.more_text(len(rest)), _choices(rest))
    yield from map(_note, comparisons.notes(comparison))


def _choices(choices: Sequence[Choice]) -> str:
    rows = [comparisons.cells(c) for c in choices]
    return _table(comparisons.HEAD, rows, names=2, drop=comparisons.LEAST[:-1])


def _point(choice: Choice, groups: Sequence[str]) -> Point:
    cache = comparisons.cache_name(choice)
    name = f"{choice.file_type}, cache {cache}: {choice.n_ctx:,} tokens"
    return Point(choice.bits_per_weight, choice.n_ctx, groups.index(cache), name, choice.on_front)


def _group(i: int, name: str) -> str:
    """Write the mark of a group of points, and its name."""
    return f'<span class="key"><svg viewBox="0 0 14 14">{mark(7, 7, i, "")}</svg>{html_text(name)}</span>'


def _shortlist(found: Shortlist) -> Iterable[str]:
    yield _title(shortlist.title(found))
    if not found.fits:
        yield _said(shortlist.NONE, "bad")
    for name, carriers in shortlist.tables(found):
        yield _carriers(name, carriers[: shortlist.SHOWN])
        if rest := carriers[shortlist.SHOWN :]:
            yield _more(f"... and {len(rest):,} more", _carriers(name, rest))
    yield _note(shortlist.order(found))


def _carriers(name: str, carriers: Sequence[Carrier]) -> str:
    return _table((name, *shortlist.HEAD), [shortlist.cells(c) for c in carriers], stack=False)


def _model(model: Model) -> Iterable[str]:
    yield _title(plans.model_name(model))
    yield _table(("", ""), describe.facts(model), words=True, stack=False)
    yield _table(*describe.kinds_table(model))
    yield _table(*describe.types_table(model), stack=False)


def _verification(found: Verification) -> Iterable[str]:
    yield _title(verifications.title(found))
    yield _said(verifications.answer(found), verifications.mark(found))
    yield from map(_said, found.reasons)
    if found.rows:
        yield _table(verifications.HEAD, [verifications.cells(r) for r in found.rows], names=2, words=True)
    yield from map(_note, verifications.notes(found))


def _sweep(result: Any) -> Iterable[str]:
    yield _title(grids.title(result))
    yield _said(grids.size(result))
    if found := grids.rows(result):
        yield _table(grids.HEAD, found, names=grids.NAMES)
    yield _note(grids.what(result))


_BODIES: Final[dict[type, Callable[[Any], Iterable[str]]]] = {
    Plan: _plan,
    Estimate: _estimate,
    Comparison: _comparison,
    Alternatives: _alternatives,
    Alternative: _alternative,
    Shortlist: _shortlist,
    Model: _model,
    Speed: _speed,
    Verification: _verification,
}


def _title(text: str) -> str:
    return f"<h1>{html_text(text)}</h1>"


def _said(text: str, mark: Mark = "") -> str:
    return f"<p{f' class={mark}' if mark else ''}>{html_text(text)}</p>"


def _answer(text: str, fits: bool) -> str:
    return f'<p class="answer {"good" if fits else "bad"}">{html_text(text)}</p>'


def _note(text: str) -> str:
    return f'<p class="note">{html_text(text)}</p>'


def _more(title: str, body: str) -> str:
    """Fold what is shown when it is asked for; a browser needs no script for that."""
    return f"<details><summary>{html_text(title)}</summary>{body}</details>"


def _table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    names: int = 1,
    words: bool = False,
    drop: Sequence[str] = (),
    stack: bool = True,
    unit: str = "",
) -> str:
    """Write a table whose first `names` columns are words, and its last with `words`; the others are numbers.

    Where it is narrow the columns in `drop` go; without any, rows are stacked as blocks, under `unit`.
    """

    def cell(tag: str, i: int, text: str) -> str:
        kinds = ["name"] if i < names or (words and i == len(head) - 1) else []
        kinds += ["words"] if words and i == len(head) - 1 else []
        kinds += [] if head[i] not in drop else ["less"] if head[i] in drop[:MOST] else ["least"]
        kinds += [mark_of(text)] if mark_of(text) else []
        classes = f' class="{" ".join(kinds)}"' if kinds else ""
        name = f' data-name="{html_text(head[i])}"' if tag == "td" and stacked else ""
        name += f' data-unit="{html_text(unit)}"' if name and unit and i == 0 else ""
        return f"<{tag}{classes}{name}>{html_text(text)}</{tag}>"

    def line(tag: str, cells: Sequence[str]) -> str:
        return f"<tr>{''.join(cell(tag, i, text) for i, text in enumerate(cells))}</tr>"

    stacked = stack and not drop
    body = "".join(line("td", row) for row in rows)
    top = f"<thead>{line('th', head)}</thead>" if any(head) else ""
    kind = ' class="stack"' if stacked else ""
    return f'<div class="wide"><table{kind}>{top}<tbody>{body}</tbody></table></div>'
