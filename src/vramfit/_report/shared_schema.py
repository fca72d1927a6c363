"""Describe the JSON of several models on one machine, as `schema` does that of one: fields are added, never renamed."""

from __future__ import annotations

from typing import Optional

from pydantic import Field

from .schema import SCHEMA_VERSION, LeftJson, PlanJson, Text, _Frozen

__all__ = ["GivenUpJson", "SharedDeviceJson", "SharedPlanJson", "TenantJson"]


class SharedDeviceJson(_Frozen):
    """One card, or the host, with all models on it; `taken` has a number for each of them, `free` is null where it is not known."""

    name: Text
    taken: list[int]
    processes: int
    total: int
    free: Optional[int]  # noqa: UP045 - pydantic evaluates it, on 3.10 too
    left: Optional[int]  # noqa: UP045


class TenantJson(_Frozen):
    """One of the models, and its plan on those of the cards that `cards` numbers, beside all others that are loaded."""

    name: Text
    loaded: bool
    fixed: bool
    wish: int
    weight: float
    share: Optional[float]  # noqa: UP045
    cards: list[int]
    plan: PlanJson


class GivenUpJson(_Frozen):
    """The context that each model by itself would come down to for another of `size` bytes on one card; null where none does."""

    size: int
    n_ctx: list[Optional[int]]  # noqa: UP045


class SharedPlanJson(_Frozen):
    """What `vramfit plan --json` prints for several models."""

    schema_version: int = SCHEMA_VERSION
    fits: bool
    objective: str
    share: Optional[float]  # noqa: UP045
    proved: bool
    note: Text
    margin: int
    models: list[TenantJson]
    devices: list[SharedDeviceJson]
    leaves: list[LeftJson]
    gives_up: list[GivenUpJson]
    warnings: list[Text]
    ignored: list[str] = Field(default_factory=list)
