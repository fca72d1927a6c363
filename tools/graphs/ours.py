"""The graph that the library builds for a reservation, and the lines of source that built it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from vramfit import _graphs
from vramfit._estimate.layer_runs import collapse
from vramfit._estimate.reserve import _kinds as layers_as_told_apart
from vramfit._ggml.graph import Tensor
from vramfit._graphs import Instance, Known, Run, Unbuildable
from vramfit._llama.model import Model
from vramfit._llama.placement import Placement

__all__ = ["Unbuildable", "alike", "graph_of", "recorded_lines", "short_of"]

_VARIABLE: Final = "VRAMFIT_GRAPH_OF"
_FOLDER: Final = os.path.dirname(os.path.abspath(_graphs.__file__)) + os.sep


def alike(model: Model, placement: Placement) -> list[object]:
    """What each layer of the main graph must share with another to be taken for its repeat."""
    return list(layers_as_told_apart(_known(model), placement))


def short_of(model: Model, run: Run, placement: Placement) -> tuple[tuple[int, ...], Instance]:
    """The layers that stand for all, and the graph of these: what an estimate builds. Raises `Unbuildable`."""
    known = _known(model)
    layers = collapse(layers_as_told_apart(known, placement), 2).kept
    return tuple(layers), _graphs.build(known, run, placement, layers)


def graph_of(model: Model, run: Run, placement: Placement) -> Instance:
    """The graph of all layers. Raises `Unbuildable`. $VRAMFIT_GRAPH_OF names another function to prove."""
    if other := os.environ.get(_VARIABLE):
        module, _, name = other.partition(":")
        made: Instance = getattr(importlib.import_module(module), name)(model, run, placement)
        return made
    return _graphs.build(_known(model), run, placement)


def _known(model: Model) -> Known:
    if not _LAST or _LAST[0][0] is not model:
        _LAST[:] = [(model, _graphs.know(model))]
    return _LAST[0][1]


_LAST: list[tuple[Model, Known]] = []  # the model that was asked for last


@contextmanager
def recorded_lines() -> Iterator[dict[int, str]]:
    """While it is entered, the lines of `vramfit._graphs` that make each tensor, by the tensor's `id`, innermost first."""
    found: dict[int, str] = {}
    plain = Tensor.__init__

    def record(self: Tensor, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        found[id(self)] = _lines()

    Tensor.__init__ = record  # type: ignore[method-assign]
    try:
        yield found
    finally:
        Tensor.__init__ = plain  # type: ignore[method-assign]


def _lines() -> str:
    frame, found = sys._getframe(2), []
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_FOLDER):
            found.append(f"{name[len(_FOLDER) :]}:{frame.f_lineno}")
        frame = frame.f_back  # type: ignore[assignment]
    return " < ".join(found)
