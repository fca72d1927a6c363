"""What a server says of its memory → a `Verification`: one figure for all cards, where it gives one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .._base.errors import EngineRefusal, SettingsError
from .._devices import Gpu
from .._engines.choose import plan_for
from .._engines.settings import engine_settings
from .._estimate.estimate import Estimate, estimate
from .._llama.model import Model
from .._llama.params import Settings
from .._logs import Load, Size
from .compare import verdict_of
from .nouns import Row, Verification

__all__ = ["verify_running"]


def verify_running(
    model: Model,
    gpus: Sequence[Gpu],
    program: str,
    build: str,
    given: dict[str, object],
    size_vram: int,
    size: int,
) -> Verification:
    """Compare the bytes that a server says it takes, on all cards and on cards and host together; 0 is no figure.

    Raises what `estimate` raises.
    """
    engine = program if not (program == "ollama" and build) else build
    settings = engine_settings(
        engine, {**given, **({"engine_build": build} if build and engine != build else {})}
    )
    found, settings = _loaded(model, gpus, settings, engine)
    rows = _rows(found, size_vram, size)
    silent = f"{program} gives no sizes, only its context, slots and build: compare its log with --log FILE"
    return Verification(
        Load(0, program=program, build=build),
        rows,
        verdict_of(rows),
        model,
        tuple(gpus),
        settings,
        found.exact,
        reasons=() if rows else (silent,),
    )


def _rows(found: Estimate, size_vram: int, size: int) -> tuple[Row, ...]:
    """Set the two sums beside the estimate's; that with the host is not judged, and without both there is nothing."""
    on_cards = sum(g.total for g in found.gpus)
    if not (size_vram or size):
        return ()
    cards = Row("all cards", "total", on_cards, Size(size_vram, size_vram))
    if not size:
        return (cards,)
    why = "host memory, parts of which are counted elsewhere"
    return cards, Row("cards and host", "total", on_cards + found.host.total, Size(size, size), False, why)


def _loaded(model: Model, gpus: Sequence[Gpu], settings: Settings, engine: str) -> tuple[Estimate, Settings]:
    """The estimate of what the engine loads with its own split."""
    if not engine.startswith("ollama") or len(gpus) < 2 or not settings.n_ctx:
        return estimate(model, gpus, settings), settings
    try:
        plan = plan_for(model, gpus, settings, engine, margin_bytes=0, compare=False)
    except (SettingsError, EngineRefusal):
        return estimate(model, gpus, settings), settings
    return plan.estimate, replace(plan.settings, n_ctx=settings.n_ctx)
