"""Plan for one model, or for several that share the cards: the library's `plan`."""

from __future__ import annotations

from typing import Any, TypeAlias, overload

from .._coerce import AUTO, AnyGpus, AnyHost, AnyModel, AnySettings
from .._llama.model import Model
from .plan import DEFAULT_MARGIN, Plan
from .plan import plan as plan_one
from .segments import Learned
from .shared import SharedPlan, Tenant, plan_shared

__all__ = ["plan"]

Several: TypeAlias = (
    "list[Model] | list[str] | list[Tenant] | list[AnyModel | Tenant] | tuple[AnyModel | Tenant, ...]"
)


@overload
def plan(
    model: AnyModel,
    gpus: AnyGpus = ...,
    settings: AnySettings = ...,
    *,
    margin_bytes: int | str = ...,
    max_ctx: int | str | None = ...,
    host: AnyHost = ...,
    learned: Learned | None = ...,
) -> Plan: ...


@overload
def plan(
    model: Several,
    gpus: AnyGpus = ...,
    settings: AnySettings = ...,
    *,
    margin_bytes: int | str = ...,
    max_ctx: int | str | None = ...,
    host: AnyHost = ...,
    objective: str = ...,
) -> SharedPlan: ...


def plan(
    model: AnyModel | Several,
    gpus: AnyGpus = AUTO,
    settings: AnySettings = None,
    *,
    margin_bytes: int | str = DEFAULT_MARGIN,
    max_ctx: int | str | None = None,
    host: AnyHost = None,
    learned: Learned | None = None,
    objective: str = "share",
) -> Plan | SharedPlan:
    """Find the largest context that leaves `margin_bytes` free on every card (by default this machine's) and on a known `host`.

    Takes every setting as given; `n_ctx` other than 0 asks about that one context, a `tensor_split`
    fixes the split. `max_ctx` (tokens of all slots together) defaults to the trained context. Margins are
    bytes, or text such as "1GiB".
    `host` is the machine's own memory, such as "64GiB" or a `Host`; without it only a card that shares it is judged.
    `learned` is an empty dict that several plans of one model share to save time, whatever the cards, the
    settings and its tensors' types.

    A list or tuple is of models that share the cards, each in a process of its own: references, `Model`s, or `Tenant`s with
    settings and wishes of their own. The answer is a `SharedPlan`, for the `objective`: "share" makes the smallest
    share of a wish as large as can be, then that of the models which can still grow; "order" the context of each in turn.

    Raises what `estimate` raises, and `SettingsError` for a margin or limit below zero.
    """
    asked: dict[str, Any] = {"margin_bytes": margin_bytes, "max_ctx": max_ctx, "host": host}
    if isinstance(model, list | tuple):
        return plan_shared(model, gpus, settings, objective=objective, **asked)
    return plan_one(model, gpus, settings, learned=learned, **asked)
