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
from functools import lru_cache
from typing import Final

from .build import Instance, build
from .dims import FUSED, Run
from .expressions import OutsideTemplate
from .prepare import Prepared, prepare
from .text import Template, parse_template

__all__ = [
    "FUSED",
    "Instance",
    "OutsideTemplate",
    "Prepared",
    "Run",
    "Template",
    "architectures",
    "build",
    "prepare",
    "template_for",
]

_FOLDER: Final = os.path.join(os.path.dirname(__file__), "templates")


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
