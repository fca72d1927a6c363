"""Several models on one machine: which fit together, on which cards, each with which context.

| module | what is there |
|---|---|
| `nouns` | `Tenant`, a model that shares the cards; `SharedPlan`, the answer for all of them |
| `solve` | `Tenant`s → `SharedPlan` |
"""

from .nouns import OBJECTIVES, SharedPlan, Tenant
from .solve import plan_shared

__all__ = ["OBJECTIVES", "SharedPlan", "Tenant", "plan_shared"]
