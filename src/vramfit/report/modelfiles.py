"""What checked Modelfiles mean, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..modelfile import Finding
from ..units import format_mib
from .plans import model_name
from .tables import render_table

if TYPE_CHECKING:
    from .schema import FindingJson

__all__ = ["findings_json", "findings_text"]


def findings_text(findings: Sequence[Finding]) -> str:
    """One row for each context, then what is to be said about each file."""
    if not findings:
        return "No Modelfiles found."
    head = ["Modelfile", "model", "num_ctx", "", "on", "short of MiB", "largest safe", "trained"]
    table = render_table(head, [_row(f) for f in findings], left=2)
    notes = [f"{_place(f)}: {note}" for f in findings for note in f.notes]
    return "\n\n".join([table, "\n".join(notes)] if notes else [table])


def _row(finding: Finding) -> list[str]:
    model = finding.plan.model
    return [
        _place(finding),
        model_name(model),
        f"{finding.num_ctx:,}",
        finding.verdict.value,
        "" if finding.fits else finding.card,
        "" if finding.fits else format_mib(finding.shortfall),
        f"{finding.best:,}" if finding.best else "none",
        f"{model.n_ctx_train:,}",
    ]


def _place(finding: Finding) -> str:
    line = f":{finding.command.line}" if finding.command else " (default)"
    return f"{finding.file.name}{line}"


def findings_json(findings: Sequence[Finding], errors: Sequence[str]) -> str:
    """The JSON object of `vramfit modelfile check --json` (see docs/json.md)."""
    from .schema import ModelfilesJson

    return ModelfilesJson(
        fits=all(f.fits for f in findings), findings=[_as_schema(f) for f in findings], errors=list(errors)
    ).model_dump_json(indent=2)


def _as_schema(finding: Finding) -> FindingJson:
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
