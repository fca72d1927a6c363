"""Write a `Verification` as a table and as JSON: `vramfit verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .._base.foreign import json_text, printable
from .._base.units import MIB
from .._planner.older import era_title
from .._verify import Row, Verification
from .._verify.company import PRINTED
from .look import PLAIN, Look, Mark, Marked
from .plans import model_name
from .tables import render_table

if TYPE_CHECKING:
    from .schema import VerificationJson

__all__ = [
    "HEAD",
    "answer",
    "cells",
    "mark",
    "notes",
    "title",
    "verification_as_schema",
    "verification_json",
    "verification_text",
]

HEAD: Final = ("device", "memory", "estimate MiB", "printed MiB", "ratio", "")
_KINDS: Final = {"model": "weights", "context": "context", "compute": "compute"}
_ANSWERS: Final = {
    "equal": "Every figure that can be judged is as printed.",
    "near": "Every device's total is within 1 % of what was printed.",
    "higher": "The estimate is higher than what was printed.",
    "lower": "The estimate is lower than what was printed.",
    "other model": "The log is of another model than the header; nothing was compared.",
    "unchecked": "Nothing in the log can be judged with what is known.",
}
_MARKS: Final[dict[str, Mark]] = {"equal": "good", "near": "good", "lower": "bad", "other model": "bad"}


def verification_text(found: Verification, look: Look = PLAIN) -> str:
    """Show the verdict, what was loaded, the figures side by side, and what explains a difference."""
    parts = [look.paragraph(answer(found), mark(found)), look.paragraph(title(found))]
    parts += [look.paragraph(f"  {reason}") for reason in found.reasons]
    if found.rows:
        parts.append(render_table(HEAD, [cells(r) for r in found.rows], left=2, last_left=True, look=look))
    return "\n\n".join((*parts, *map(look.paragraph, notes(found))))


def answer(found: Verification) -> str:
    """The verdict in a sentence."""
    return _ANSWERS[found.verdict]


def mark(found: Verification) -> Mark:
    """The colour of the verdict."""
    return _MARKS.get(found.verdict, "warn")


def title(found: Verification) -> str:
    """Name the model, the program and its build, and which load of the log it is."""
    load = found.load
    words = [
        model_name(found.model) if found.model else str(load.facts.get("arch", "a model")),
        load.program or "an engine",
    ]
    words.append(load.build or "of no build that the log names")
    if load.version:
        words.append(f"version {load.version}")
    if found.settings.n_ctx and found.model:
        words.append(f"context {found.settings.n_ctx:,}")
    words.append(f"load {found.at} of {found.loads}, line {load.line:,}")
    return " · ".join(printable(word, 200) for word in words)


def cells(row: Row) -> list[str]:
    """Put a row in words, under `HEAD`; figures with as many digits as were printed."""
    said: str = Marked("as printed", "good") if row.agrees else ""
    if row.differs:
        more = row.estimate - row.measured.middle
        said = Marked(f"{'+' if more > 0 else '-'}{abs(more) / MIB:,.2f}", "warn" if more > 0 else "bad")
    elif not row.judged:
        said = "not judged"
    ratio = "" if row.ratio is None else f"{row.ratio:.4f}"
    return [
        row.device,
        _KINDS.get(row.kind, row.kind),
        f"{row.estimate / MIB:,.2f}",
        f"{row.measured.middle / MIB:,.2f}",
        ratio,
        said,
    ]


def notes(found: Verification) -> list[str]:
    """Say what makes the figures equal, what was taken for granted, what lies beside, and the command that does the same."""
    said = []
    if found.causes:
        said.append(_cause(found))
    elif found.searched and found.verdict in ("higher", "lower", "near"):
        said.append("No single change of a setting or a build makes the figures equal.")
    beside: dict[str, int] = {}
    shown = {row.kind.rpartition(" ")[0] for row in found.rows}
    told = {what for kind, what in PRINTED.items() if kind in shown}
    for one in found.load.beside:
        if one.what in told:
            continue
        beside[one.what] = beside.get(one.what, 0) + one.size.middle
    said += [
        f"Beside the model: {what}, {n / MIB:,.2f} MiB, which is not in the table."
        for what, n in beside.items()
    ]
    whys = dict.fromkeys(row.why for row in found.rows if row.why)
    said += [f"Not judged: {printable(why)}." for why in whys]
    if found.model is not None and found.verdict != "other model":
        said.append(f"Counted by the rules of llama.cpp {printable(era_title(found.settings.engine_build))}.")
    said += [f"Taken: {printable(text)}." for text in found.taken]
    if found.command:
        said.append(f"To print the same: {found.command}")
    return said


def _cause(found: Verification) -> str:
    best, *others = found.causes
    what = "Equal with" if best.agrees else "Nearer with"
    said = f"{what} {printable(best.what)}."
    if others:
        said += f" Also {'; '.join(printable(c.what) + (' (equal)' if c.agrees else '') for c in others)}."
    return said


def verification_json(found: Verification) -> str:
    """Write the JSON object of `vramfit verify --json` (see docs/reference/json.md)."""
    return json_text(verification_as_schema(found).model_dump())


def verification_as_schema(found: Verification) -> VerificationJson:
    """Make the pydantic object behind `verification_json`."""
    from .schema import CauseJson, VerificationJson, VerifiedJson, settings_json

    load = found.load
    rows = [
        VerifiedJson(
            device=r.device, kind=r.kind, estimate=r.estimate, measured=r.measured.middle, low=r.measured.low,
            high=r.measured.high, judged=r.judged, agrees=r.agrees, why=r.why,
        )
        for r in found.rows
    ]  # fmt: skip
    return VerificationJson(
        model=found.model.source or found.model.name if found.model else "",
        verdict=found.verdict,
        agrees=found.agrees,
        program=load.program,
        build=load.build,
        line=load.line,
        load=found.at,
        loads=found.loads,
        rows=rows,
        reasons=list(found.reasons),
        causes=[
            CauseJson(what=c.what, agrees=c.agrees, settings=settings_json(c.settings)) for c in found.causes
        ],
        taken=list(found.taken),
        command=found.command,
        settings=settings_json(found.settings),
        era=era_title(found.settings.engine_build),
    )
