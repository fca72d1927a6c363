"""Write what was found in Modelfiles, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from .._base.foreign import json_text, printable
from .._base.units import format_mib
from .._modelfile import Finding, Modelfile
from .look import PLAIN, Look, Marked
from .plans import model_name
from .tables import render_table

if TYPE_CHECKING:
    from .schema import FindingJson

__all__ = ["Written", "finding_as_schema", "findings_json", "findings_text", "written_text"]

Written: TypeAlias = tuple[
    Modelfile, Sequence[Finding], str
]  # as it is now, what was found before, its backup


def findings_text(findings: Sequence[Finding], look: Look = PLAIN) -> str:
    """Show one row for each context, then what is to be said about each file."""
    head = ["Modelfile", "model", "num_ctx", "", "on", "short of MiB", "largest safe", "trained"]
    drop = ("trained", "model", "on")
    table = render_table(head, [_row(f) for f in findings], left=2, look=look, drop=drop)
    notes = [look.paragraph(printable(f"{_place(f)}: {note}")) for f in findings for note in f.notes]
    notes.append(look.paragraph(f"What is not said is as {findings[0].plan.settings.defaults} has it."))
    return "\n\n".join([table, "\n".join(notes)])


def _row(finding: Finding) -> list[str]:
    model = finding.plan.model
    return [
        _place(finding),
        model_name(model),
        f"{finding.num_ctx:,}",
        Marked(finding.verdict.value, "good" if finding.fits else "bad"),
        "" if finding.fits else finding.card,
        "" if finding.fits else format_mib(finding.shortfall),
        f"{finding.best:,}" if finding.best else "none",
        f"{model.n_ctx_train:,}",
    ]


def _place(finding: Finding) -> str:
    line = f":{finding.command.line}" if finding.command else " (default)"
    return f"{finding.file.name}{line}"


def written_text(written: Sequence[Written]) -> str:
    """Say what was changed in which file, and where what was there is kept."""
    return "\n".join(
        printable(f"Wrote {file.name}: {', '.join(_changes(file, findings))}. Before: {backup}")
        for file, findings, backup in written
    )


def _changes(file: Modelfile, findings: Sequence[Finding]) -> list[str]:
    """Write "line 5: num_ctx 57344 → 38656" for each command that was mended."""
    now = {c.line: c.value for c in file.parameters("num_ctx")}
    commands = (f.command for f in findings if f.command is not None)
    return [
        f"line {c.line}: num_ctx {c.value} → {now[c.line]}" for c in commands if now.get(c.line) != c.value
    ]


def findings_json(findings: Sequence[Finding], errors: Sequence[str], written: Sequence[Written] = ()) -> str:
    """Write the JSON object of `vramfit modelfile check --json` (docs/reference/json.md)."""
    from .schema import ModelfilesJson, WrittenJson

    found = ModelfilesJson(
        fits=bool(findings) and all(f.fits for f in findings),
        findings=[finding_as_schema(f) for f in findings],
        errors=list(errors),
        written=[
            WrittenJson(file=file.name, backup=backup, changes=_changes(file, here))
            for file, here, backup in written
        ],
    )
    return json_text(found.model_dump())


def finding_as_schema(finding: Finding) -> FindingJson:
    """The pydantic object of one finding."""
    from .plans import plan_as_schema
    from .schema import FindingJson

    return FindingJson(
        file=finding.file.name,
        line=finding.command.line if finding.command else None,
        num_ctx=finding.num_ctx,
        verdict=finding.verdict.value,
        card=finding.card,
        shortfall=finding.shortfall,
        best=finding.best,
        mended=finding.mended,
        notes=list(finding.notes),
        plan=plan_as_schema(finding.plan),
    )
