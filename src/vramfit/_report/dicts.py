"""Write results as dicts: the objects that the commands print with --json, from the one schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from .._engines.doctor import Diagnosis
from .._estimate.estimate import Estimate
from .._llama.model import Model
from .._modelfile import Finding
from .._planner.bounds import Speed
from .._planner.compare import Comparison
from .._planner.plan import Plan
from .._planner.shared import SharedPlan
from .._planner.whatif import Alternative, Alternatives
from .._planner.which import Shortlist
from .._verify import Verification
from .alternatives import alternative_as_schema, alternatives_as_schema
from .comparisons import comparison_as_schema
from .describe import model_as_schema
from .doctor import doctor_as_schema
from .modelfiles import finding_as_schema
from .plans import estimate_as_schema, plan_as_schema
from .shared import shared_as_schema
from .shortlist import shortlist_as_schema
from .speeds import speed_as_schema
from .verifications import verification_as_schema

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["as_dict"]

_SCHEMAS: Final[dict[type, Callable[[Any], BaseModel]]] = {
    Plan: plan_as_schema,
    SharedPlan: shared_as_schema,
    Estimate: estimate_as_schema,
    Comparison: comparison_as_schema,
    Alternatives: alternatives_as_schema,
    Alternative: alternative_as_schema,
    Shortlist: shortlist_as_schema,
    Model: model_as_schema,
    Finding: finding_as_schema,
    Diagnosis: doctor_as_schema,
    Speed: speed_as_schema,
    Verification: verification_as_schema,
}


def as_dict(result: object) -> dict[str, Any]:
    """Return what `json.loads` makes of the command's --json. Raises `TypeError` for anything but a result."""
    for kind, schema in _SCHEMAS.items():
        if isinstance(result, kind):
            return schema(result).model_dump(mode="json")
    from .._planner.sweep import Sweep
    from .grids import sweep_as_schema

    if isinstance(result, Sweep):
        return sweep_as_schema(result).model_dump(mode="json")
    raise TypeError(f"{type(result).__name__} is not a result that vramfit describes")
