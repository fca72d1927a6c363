"""The graphs that the engine builds for a case: the oracle of `prove`. Needs a built engine (docs/engine.md)."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Iterator

from tools.engine.adapters import given
from tools.engine.errors import EngineError
from tools.engine.load import Refused as EngineRefused
from tools.engine.trace import Dump, Tracer, to_graph
from vramfit._graphs import FUSED, Run

from .cases import Case, reservations
from .prove import Refused, Truth, Unable

__all__ = ["truths"]


def truths(case: Case) -> Iterator[Truth]:
    """The graphs of a context's start, as the engine makes them. Raises `Refused`, `Unable`."""
    runs = reservations(case)
    try:
        dumps = _dumps(case)
    except EngineRefused as e:
        raise Refused(str(e)) from None
    except EngineError as e:
        raise Unable(str(e)) from None
    if len(runs) < len(dumps) and not _repeats(dumps):
        raise Unable(
            "the engine's last reservation is not its first again; cases.reservations does not say so"
        )
    for run, dump in zip(runs, dumps, strict=False):
        yield Truth(_as_built(run, dump), to_graph(dump))


def _dumps(case: Case) -> tuple[Dump, ...]:
    with Tracer(case.path, case.gpus_mib, fuses=case.fuses, **case.asked) as tracer:
        if not case.adapters:
            return tracer.passes
        with tempfile.TemporaryDirectory(prefix="adapters-") as folder:
            return tracer.adapted(*given(case.adapters, case.model, pathlib.Path(folder)))


def _repeats(dumps: tuple[Dump, ...]) -> bool:
    """Whether the last reservation is the first again."""
    return dumps[0] == dumps[-1]


def _as_built(run: Run, dump: Dump) -> Run:
    """The run with the fused operations that the engine kept."""
    found = frozenset(t.op.lower() for t in dump.tensors) & FUSED
    return run._replace(fused=found or run.fused)
