"""Write results as `print(result)` shows them on a terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from .._engines.doctor import Diagnosis
from .._estimate.estimate import Estimate
from .._llama.model import Model
from .._planner.bounds import Speed
from .._planner.compare import Comparison
from .._planner.plan import Plan
from .._planner.whatif import Alternative, Alternatives
from .._planner.which import Shortlist
from .._verify import Verification
from .alternatives import alternative_text, alternatives_text
from .comparisons import comparison_text
from .describe import model_text
from .doctor import doctor_text
from .grids import sweep_text
from .plans import estimate_text, plan_text
from .shortlist import shortlist_text
from .speeds import speed_text
from .verifications import verification_text

__all__ = ["text"]

_TEXTS: Final[dict[type, Callable[[Any], str]]] = {
    Plan: plan_text,
    Estimate: estimate_text,
    Comparison: comparison_text,
    Alternatives: alternatives_text,
    Alternative: alternative_text,
    Shortlist: shortlist_text,
    Model: model_text,
    Diagnosis: doctor_text,
    Speed: speed_text,
    Verification: verification_text,
}


def text(result: object) -> str:
    """Show a result as the command prints it. Raises `TypeError` for anything but a result."""
    for kind, shown in _TEXTS.items():
        if isinstance(result, kind):
            return shown(result)
    from .._planner.sweep import Sweep

    if isinstance(result, Sweep):
        return sweep_text(result)
    from .._planner.shared import SharedPlan

    if isinstance(result, SharedPlan):
        from .shared import shared_text

        return shared_text(result)
    raise TypeError(f"{type(result).__name__} is not a result that vramfit prints")
