"""An estimate beside what a log says that an engine allocated: the whole way."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from .._base.errors import SettingsError, SourceError, VramfitError, shown
from .._base.foreign import shell_line
from .._coerce import AnyGpus, AnyModel, cards, checked_fields, count, flag, model_of
from .._devices import MAX_GPUS, Gpu
from .._engines.server import arguments, model_flags
from .._estimate.estimate import Estimate, estimate
from .._llama.eras import era_of
from .._llama.model import Model
from .._llama.params import Settings
from .._logs import Load, lines_of, read_loads
from .alone import alone
from .asked import asked, server_like
from .builds import candidates, named_build
from .causes import find_causes
from .company import company_rows, is_of_draft
from .compare import differences, rows_of, verdict_of
from .moved import experts_on_host
from .nouns import Cause, Row, Verification
from .split import split_of

__all__ = ["AnyLog", "loads_of", "verify", "verify_load"]

CAPABILITIES: Final = ("8.9", "8.6", "12.0", "7.5", "8.0", "9.0", "6.1")  # the commonest cards first

AnyLog = str | bytes | os.PathLike[str] | Iterable[str]


def verify(
    model: AnyModel | None,
    log: AnyLog,
    settings: Mapping[str, Any] | None = None,
    *,
    gpus: AnyGpus | None = None,
    load: int = 0,
    causes: bool = True,
) -> Verification:
    """Compare what vramfit says with what an engine printed when it loaded `model`.

    `log` is the text of a log, lines, or a path (`os.PathLike`, or a string that names a file). Settings, build and cards are
    the log's; `settings` are fields of `Settings` that count instead, `gpus` cards in the log's order. Of several loads in a
    log the last that is complete and of this model is taken, or number `load`, from 1. What is loaded beside the model has rows
    where it was printed: a projector, next-token layers, a draft that the log loads, too. Without a model (None) the log's own dimensions are
    checked. `causes=False` leaves out the search for what explains a difference.

    Raises `SourceError` where the log cannot be read or holds no load, and what `estimate` raises.
    """
    over = _checked(settings)
    causes = flag("causes", causes)
    described = None if model is None else model_of(model)
    chosen, at, n, drafted = _chosen(loads_of(log), count("load", load), described)
    on = None if gpus is None else cards(gpus)
    found = verify_load(described, chosen, over, on, causes=causes, drafted=drafted)
    return replace(found, loads=n, at=at)


def _checked(settings: object) -> dict[str, Any]:
    """The fields that a person says, as `Settings` has them. Raises `SettingsError`."""
    if settings is None:
        return {}
    if not isinstance(settings, Mapping):
        raise SettingsError(
            f"settings={shown(settings)}: give a mapping of fields such as {{'n_ctx': 32768}}, or None"
        )
    given = checked_fields(settings)
    made = Settings(**given)
    return {name: getattr(made, name) for name in given}


def loads_of(log: AnyLog) -> Iterator[Load]:
    """The loads of a log. Raises `SourceError` where it cannot be read."""
    if isinstance(log, bytes | bytearray | memoryview):
        return read_loads(lines_of(bytes(log)))
    if isinstance(log, str) and (not log.strip() or "\n" in log or not _is_file(log)):
        return read_loads(lines_of(log))
    if isinstance(log, str | os.PathLike):
        return _of_file(Path(log))
    if isinstance(log, Iterable):
        ends = "\n" if isinstance(log, list | tuple) else ""
        return read_loads(lines_of(_pieces(log, ends)))
    raise SourceError(f"log={shown(log)}: give the text of a log, its lines, or a path")


def _pieces(log: Iterable[object], ends: str) -> Iterator[str | bytes]:
    for piece in log:
        if isinstance(piece, str):
            yield piece + ends
        elif isinstance(piece, bytes):
            yield piece + ends.encode()
        else:
            raise SourceError(f"log: {shown(piece)} is no line; give the text of a log, its lines, or a path")


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False


def _of_file(path: Path) -> Iterator[Load]:
    try:
        with path.open("rb") as file:
            yield from read_loads(lines_of(iter(partial(file.read, 1 << 20), b"")))
    except OSError as e:
        raise SourceError(f"{path}: cannot be read: {e.strerror or e}") from None
    except ValueError as e:  # a zero byte in the name
        raise SourceError(f"{shown(str(path))}: cannot be read: {e}") from None


def _chosen(loads: Iterator[Load], wanted: int, model: Model | None) -> tuple[Load, int, int, Load | None]:
    """The load that is asked for, its number, how many there are, and the last one of the model's draft.

    Where none is asked for, the last complete one, if there is one of this model.
    """
    best: tuple[tuple[bool, bool, int], Load, int] | None = None
    drafted: Load | None = None
    n = 0
    for n, load in enumerate(loads, 1):
        own = model is None or not differences(load, model)
        rank = (n == wanted, own, 0) if wanted else (load.is_complete and not load.projected, own, n)
        if best is None or rank >= best[0]:
            best = (rank, load, n)
        if model is not None and is_of_draft(load, model):
            drafted = load
    if best is None:
        raise SourceError(
            "the log says nothing of memory: no line such as 'CUDA0 model buffer size = 4095.05 MiB' is in it; start the engine"
            " with its log (llama-server -v, OLLAMA_DEBUG=1, verbose=True)"
        )
    if wanted and best[2] != wanted:
        raise SettingsError(f"load={wanted}: the log holds {n} load{'s' if n > 1 else ''}")
    return best[1], best[2], n, drafted


def verify_load(
    model: Model | None,
    load: Load,
    over: Mapping[str, Any],
    gpus: Sequence[Gpu] | None = None,
    *,
    causes: bool = True,
    drafted: Load | None = None,
) -> Verification:
    """Compare one load; as `verify`. `drafted` is the load of the draft beside the model."""
    if model is None:
        return alone(load, over, partial(verify_load, gpus=gpus, causes=causes))
    reasons = differences(load, model)
    if reasons:
        return Verification(load, (), "other model", model, reasons=reasons)
    if why := _unplanned(load):
        return Verification(load, (), "unchecked", model, reasons=(why,))
    known = str(over.get("engine_build", "")) or named_build(load)
    builds = [known] if known else candidates(load)
    tried = [_Tried(model, load, build, over, gpus, drafted) for build in builds]
    return _best(tried, build_known=bool(known), causes=causes)


def _best(tried: Sequence[_Tried], *, build_known: bool, causes: bool) -> Verification:
    """The build that agrees whole; else the first, where one change explains the rest; else the nearest."""
    best = max(tried, key=lambda t: t.goodness)
    if best.error is not None:
        raise best.error
    if len(tried) > 1 and causes and any(r.differs for r in best.rows) and tried[0].error is None:
        first = tried[0].told(build_known=False, causes=True)
        if first.causes and first.causes[0].agrees:
            return first
    return best.told(build_known=build_known, causes=causes)


def _unplanned(load: Load) -> str:
    """What no estimate is made for; "" for nothing."""
    if any(b.place.endswith("_Split") for b in load.buffers):
        return "weights are split by rows over the cards, which is not planned"
    if len(load.places) > MAX_GPUS:
        return f"the log has buffers on {len(load.places)} devices; an engine takes {MAX_GPUS}"
    return ""


class _Tried:
    """One build's estimate of a load."""

    def __init__(
        self, model: Model, load: Load, build: str, over: Mapping[str, Any], gpus: Sequence[Gpu] | None,
        drafted: Load | None = None,
    ) -> None:  # fmt: skip
        self.model, self.load, self.build, self.drafted = model, load, build, drafted
        self.error: VramfitError | None = None
        self.rows: tuple[Row, ...] = ()
        try:
            self._estimate(over, gpus)
        except VramfitError as e:
            self.error = e

    def _estimate(self, over: Mapping[str, Any], gpus: Sequence[Gpu] | None) -> None:
        ask = asked(self.load, self.model, self.build, over)
        if gpus is not None and len(gpus) != len(ask.places):
            raise SettingsError(
                f"gpus: {len(gpus)} cards given; the log has buffers on {', '.join(ask.places) or 'none'}"
            )
        self.gpus = tuple(gpus) if gpus is not None else ask.gpus
        self.taken, self.settings = list(ask.taken), ask.settings
        moved = experts_on_host(self.load, self.model, self.gpus, self.settings)
        if moved and "cpu_tensors" not in over:
            self.settings = replace(self.settings, cpu_tensors=moved)
            self.taken.append(
                f"the experts of the first {len(moved)} layers on the host, from what lies on the cards"
            )
        if not self.settings.tensor_split:
            split = split_of(self.load, self.model, self.gpus, self.settings)
            if split and sum(split):
                self.settings = replace(
                    self.settings, tensor_split=tuple(map(float, split)), n_gpu_layers=sum(split)
                )
                self.taken.append(f"layers on each card, from what lies there: {', '.join(map(str, split))}")
        self.found = self._with(self.settings)
        self.rows = self._rows(self.found)

    def _rows(self, found: Estimate) -> tuple[Row, ...]:
        own = rows_of(self.load, found, self.model)
        return (*own, *company_rows(self.load, found, self.drafted))

    def _with(self, settings: Settings) -> Estimate:
        return estimate(self.model, self.gpus, settings)

    @property
    def goodness(self) -> tuple[bool, int, float]:
        """How well it agrees: rows, then how far off the worst is."""
        if self.error is not None:
            return (False, 0, 0.0)
        judged = [r for r in self.rows if r.judged]
        worst = max((abs(r.estimate - r.measured.middle) for r in judged), default=0)
        return (True, sum(r.agrees for r in judged), -float(worst))

    def told(self, *, build_known: bool, causes: bool) -> Verification:
        """The verification, with causes where rows differ."""
        self._find_capability()
        verdict = verdict_of(self.rows)
        if not build_known:
            self.taken.insert(
                0, f"the log names no build: of those that print such lines {self.build} agrees best"
            )
        found: tuple[Cause, ...] = ()
        if causes and verdict not in ("equal", "unchecked"):
            again = self._again
            found = find_causes(self.settings, self.rows, again, build_known=build_known)
        best = found[0].settings if found else self.settings
        return Verification(
            load=self.load,
            rows=self.rows,
            verdict=verdict,
            model=self.model,
            gpus=self.gpus,
            settings=self.settings,
            exact=self.found.exact,
            taken=tuple(dict.fromkeys((*self.taken, *self.load.notes))),
            causes=found,
            searched=causes,
            command=_command(self.model, best),
        )

    def _find_capability(self) -> None:
        """Where the log does not say what kind of CUDA's cards there are, and the largest figure is none: one that agrees."""
        unknown = [i for i, g in enumerate(self.gpus) if g.backend == "cuda" and g.compute_capability is None]
        if not unknown or not any(r.differs for r in self.rows):
            return
        given = self.gpus
        for capability in CAPABILITIES:
            self.gpus = tuple(
                replace(g, compute_capability=capability) if i in unknown else g for i, g in enumerate(given)
            )
            rows = self._again(self.settings)
            if not any(r.differs for r in rows):
                self.rows = rows
                self.taken.append(f"compute capability {capability}, with which the figures agree")
                return
        self.gpus = given

    def _again(self, settings: Settings) -> tuple[Row, ...]:
        return self._rows(self._with(settings))


def _command(model: Model, settings: Settings) -> str:
    """The command line of a llama-server that does the same; "" where it cannot be told that."""
    try:
        words = arguments(server_like(settings))
    except VramfitError:
        return ""
    build = f"  # {era_of(settings.engine_build).title}" if settings.engine_build else ""
    return shell_line(["llama-server", *model_flags(model.source), *words, "--fit", "off"]) + build
