"""Several models on one machine: which fit together, on which cards, each with which context.

| module | what is there |
|---|---|
| `nouns` | `Tenant`, a model that shares the cards; `SharedPlan`, the answer for all of them |
| `asked` | what is asked; a place that was found |
| `spots` | one model on some of the cards: what it takes there, exactly or at the least |
| `packing`, `divided` | a place for every model at given contexts |
| `goals` | how far contexts grow: the search for the last that some place carries |
| `choose` | which models are loaded, their contexts, their places |
| `beside` | the plan of each model beside the others |
| `solve` | `Tenant`s → `SharedPlan` |
"""

from .nouns import OBJECTIVES, SharedPlan, Tenant
from .solve import plan_shared

__all__ = ["OBJECTIVES", "SharedPlan", "Tenant", "plan_shared"]
