"""Graphs of architectures: one readable template for each, and how to make a graph of it.

| module        | one responsibility                                            |
|---------------|---------------------------------------------------------------|
| `text`        | a template and its text                                        |
| `expressions` | what extents are written in                                    |
| `rules`       | what ggml makes of an operation                                |
| `dims`        | what the names in a template stand for                         |
| `prepare`     | template + model → which kind every layer is of                |
| `compiled`    | the lines of a block that apply under given conditions         |
| `build`       | prepared model + reservation → `graph.Graph`                   |
| `templates/`  | the texts, made by tools/templates (docs/internals/graphs.md)            |
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from .._llama.model import Model
from .._llama.placement import Placement
from . import build as templates
from . import models
from .context import GraphContext
from .expressions import OutsideTemplate
from .known import Known, know
from .pooling import pool
from .prepare import Prepared, prepare
from .run import FUSED, Instance, Run
from .text import Template, parse_template

__all__ = [
    "FUSED",
    "Instance",
    "Known",
    "OutsideTemplate",
    "Prepared",
    "Run",
    "Template",
    "architectures",
    "build",
    "one_sequence",
    "prepare",
    "prepared_for",
    "template_for",
]

_FOLDER: Final = os.path.join(os.path.dirname(__file__), "templates")


def prepared_for(model: Model) -> Prepared | Known:
    """What all graphs of a model start from. Raises `OutsideTemplate` where no builder and no template knows it."""
    builder = models.builder_for(model.architecture)
    if builder is None:
        return prepare(template_for(model.architecture), model)
    return know(model, builder.traits)


def build(
    prepared: Prepared | Known, run: Run, placement: Placement, layers: Sequence[int] | None = None
) -> Instance:
    """The graph of one reservation over `placement`, of all layers or of those given (in order)."""
    if isinstance(prepared, Prepared):
        return templates.build(prepared, run, placement, layers)
    builder = models.builder_for(prepared.model.architecture)
    if builder is None:
        raise OutsideTemplate(f"there is no graph of {prepared.model.architecture} yet")
    g = GraphContext(prepared, run, placement, prepared.trunk if layers is None else layers)
    try:
        builder.build(g)
        pool(g)
    except (ArithmeticError, LookupError, RecursionError) as e:
        raise OutsideTemplate(f"the graph of {prepared.model.architecture} cannot be built: {e!r}") from e
    return g.instance()


def one_sequence(architecture: str) -> bool:
    """Whether the last reservation of a context is made with one sequence (llama-context.cpp:717)."""
    builder = models.builder_for(architecture)
    return template_for(architecture).one_sequence if builder is None else builder.one_sequence


def architectures() -> tuple[str, ...]:
    """Names of the architectures that have a template."""
    return tuple(sorted(name.removesuffix(".txt") for name in os.listdir(_FOLDER) if name.endswith(".txt")))


def template_for(architecture: str) -> Template:
    """The template of an architecture. Raises `OutsideTemplate` when there is none."""
    found = _template(architecture)
    if isinstance(found, OutsideTemplate):
        raise OutsideTemplate(*found.args)  # a new one: what is raised keeps the frames that it passed
    return found


@lru_cache(maxsize=16)
def _template(architecture: str) -> Template | OutsideTemplate:
    """The template or what is to be raised, which is remembered, too."""
    path = os.path.join(_FOLDER, os.path.basename(architecture) + ".txt")
    try:
        with open(path, encoding="utf-8") as file:
            return parse_template(file.read())
    except FileNotFoundError:
        return OutsideTemplate(f"there is no graph of {architecture} yet")
    except (ValueError, LookupError) as e:
        return OutsideTemplate(f"the template of {architecture} is damaged: {e}")
