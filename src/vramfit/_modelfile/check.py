"""Does every context of a Modelfile fit on the cards, and which one would?

In: a `Modelfile`, the folder that its paths start from, cards, an engine, the settings that the engine's server is
told. Out: a `Finding` for each `num_ctx`. The model's header is read where FROM points.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, cast

from .._base.errors import ModelfileError
from .._base.given import call
from .._base.units import format_bytes
from .._devices import Gpu
from .._engines import old_layout
from .._engines.choose import plan_for
from .._engines.ollama import auto_batches, default_context
from .._engines.settings import engine_settings
from .._engines.table import find
from .._estimate.estimate import estimate
from .._llama.cparams import CONTEXT_STEP
from .._llama.model import Model
from .._llama.params import MAX_TOKENS, Settings
from .._llama.placement import devices, split_is_given
from .._planner.plan import DEFAULT_MARGIN, Plan
from .._planner.segments import Learned
from .._sources import Resolved, resolve
from .._sources.load import read
from .grammar import Command, Modelfile
from .parameters import check_names, number, whole

__all__ = ["Finding", "Verdict", "check", "fix"]


class Verdict(Enum):
    """What becomes of a context."""

    FITS = "fits"
    SPILLS = "spills"  # the engine moves layers to the host: it runs, many times slower
    DEPENDS = "depends"  # on the version: some of those that are meant hold it, others run out of memory
    CRASHES = "crashes"  # the engine runs out of memory, at the start or with the first long prompt


@dataclass(frozen=True, slots=True)
class Finding:
    """What one `num_ctx` of a Modelfile means on the cards.

    `plan` is for the context that the engine really loads. `card` is the one that is shortest, `shortfall` what
    it lacks in bytes, margin included. `best` is the largest safe `num_ctx`: what the cards hold, up
    to the trained length; 0 when none does. `mended` is what `fix` writes: the largest safe one that is no larger
    than `num_ctx`, 0 where nothing is to be written.
    """

    file: Modelfile
    command: Command | None  # None: the file sets no context, `num_ctx` is the engine's own
    num_ctx: int
    verdict: Verdict
    plan: Plan
    card: str
    shortfall: int
    best: int
    mended: int = 0
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the context is safe as it is."""
        return self.verdict is Verdict.FITS

    def to_dict(self) -> dict[str, Any]:
        """The same object as one of `findings` of the command's --json, as plain dicts, lists, numbers and words."""
        return cast("dict[str, Any]", call("dict", self))


def check(
    file: Modelfile,
    folder: str | os.PathLike[str],
    gpus: Sequence[Gpu],
    *,
    engine: str = "ollama",
    given: Mapping[str, Any] | None = None,
    margin_bytes: int = DEFAULT_MARGIN,
) -> tuple[Finding, ...]:
    """Judge each `num_ctx` of `file`, or the engine's default where there is none.

    `given` holds the fields of `Settings` that the server is told, such as `flash_attn`; what the file says of
    batch, layers and card counts before it. Raises `ModelfileError` for a file that Ollama would not accept,
    `SourceError` and others where FROM leads to no model that can be planned for.
    """
    check_names(file)
    found = _resolve(file, Path(folder))
    model = read(found)
    lines = [(c, _context(file, c)) for c in file.parameters("num_ctx")]
    stated: list[tuple[Command | None, int]] = [(c, n) for c, n in lines if n]
    if not stated:
        stated = [(None, _inherited(found) or min(default_context(gpus), model.n_ctx_train or 4096))]
    asked = _Asked(file, model, tuple(gpus), engine, dict(given or {}), margin_bytes)
    return tuple(_finding(asked, command, n_ctx) for command, n_ctx in stated)


def fix(findings: Sequence[Finding]) -> Modelfile:
    """Replace every `num_ctx` that does not fit by the largest that does; nothing else of the file changes.

    `findings` are those of one file. A context is only ever made smaller.
    """
    file = findings[0].file
    for finding in reversed(findings):
        if finding.command is not None and finding.mended:
            file = file.replace(finding.command, str(finding.mended))
    return file


@dataclass(slots=True)
class _Asked:
    """What all contexts of one file have in common, and what was learned on the way."""

    file: Modelfile
    model: Model
    gpus: tuple[Gpu, ...]
    engine: str
    given: Mapping[str, Any]
    margin: int
    learned: Learned = field(default_factory=dict)

    def settings(self, num_ctx: int, n_batch: int = 0) -> Settings:
        """Make the settings for `num_ctx` tokens a slot, with the batch that they get unless one is given."""
        given = {**self.given, **self._stated()}
        given |= {"n_ctx": num_ctx * self.slots}
        batch = n_batch or self.batch(num_ctx)
        return engine_settings(
            self.engine, {**given, "n_batch": batch, "n_ubatch": batch} if batch else given
        )

    @property
    def slots(self) -> int:
        """Slots that the server is told."""
        return int(self.given.get("n_seq_max", 1))

    def batch(self, num_ctx: int) -> int:
        """Choose the batch as Ollama does for a context; 0 where it is told one, or chooses none."""
        return self.batches((num_ctx,))[0]

    def batches(self, contexts: Sequence[int]) -> tuple[int, ...]:
        """Choose `batch` for each of many contexts."""
        told = {"n_batch", "n_ubatch"} & (self.given.keys() | self._stated().keys())
        if told or self.engine != "ollama":
            return (0,) * len(contexts)
        flash_attn = self.given.get("flash_attn", "auto")
        return auto_batches(self.model, self.gpus, [n * self.slots for n in contexts], flash_attn)

    def _stated(self) -> dict[str, Any]:
        """Collect what the file says beside the context."""
        found: dict[str, Any] = {}
        if batch := number(self.file, "num_batch"):
            found |= {"n_batch": batch, "n_ubatch": batch}
        layers = number(self.file, "num_gpu")
        if layers is not None and layers >= 0:
            found["n_gpu_layers"] = layers
        card = number(self.file, "main_gpu")
        if card is not None and self.gpus:
            found |= {"main_gpu": card, "split_mode": "none"}
        return found

    def plan(self, settings: Settings, max_ctx: int | None = None, *, compare: bool = False) -> Plan:
        """Plan what the engine does with the settings; on request, with what its own split costs."""
        return plan_for(
            self.model, self.gpus, settings, self.engine,
            margin_bytes=self.margin, max_ctx=max_ctx, compare=compare, learned=self.learned,
        )  # fmt: skip


def _context(file: Modelfile, command: Command) -> int:
    """Read a context in tokens; 0 is the engine's own choice."""
    value = whole(file, command)
    if not 0 <= value <= MAX_TOKENS:
        raise ModelfileError(f"{file.name}, line {command.line}: num_ctx {value}: give 0 to {MAX_TOKENS}")
    return value


def _resolve(file: Modelfile, folder: Path) -> Resolved:
    """Find the model behind the first FROM: a path from the file's folder if there is one, else a name."""
    value = file.values("from")[0]
    if "://" in value or value == "-":
        raise ModelfileError(
            f"{file.name}: FROM {value}: Ollama takes a file or a model's name here; download it and name the file"
        )
    path = Path(os.path.expanduser(value))
    path = path if path.is_absolute() else folder / path
    if path.is_fifo():
        raise ModelfileError(f"{file.name}: FROM {value}: it is a pipe, and no model ({path})")
    if os.path.lexists(path):
        return resolve(path)
    if value.startswith((".", "/", "~")) or value.lower().endswith(".gguf"):
        raise ModelfileError(f"{file.name}: FROM {value}: no such file ({path})")
    return resolve(value)


def _inherited(found: Resolved) -> int:
    """Find the context that the model behind FROM was made with, which its children inherit; 0 without one."""
    value = found.parameters.get("num_ctx", 0)
    return value if isinstance(value, int) and value > 0 else 0


def _finding(asked: _Asked, command: Command | None, num_ctx: int) -> Finding:
    model, engine = asked.model, find(asked.engine)
    loaded = min(num_ctx, model.n_ctx_train or num_ctx) if engine.name == "ollama" else num_ctx
    plan = asked.plan(asked.settings(max(loaded, 4)), compare=True)
    shortest = min((g for g in plan.estimate.gpus if g.total), key=lambda g: g.left, default=None)
    best = _largest(asked, max(model.n_ctx_train or loaded, CONTEXT_STEP))
    mended = 0
    if not plan.fits:  # the batch hangs on the context: a larger one may be safe where a smaller is not
        mended = best if best < num_ctx else _largest(asked, loaded)
    verdict, said = _verdict(asked, plan)
    return Finding(
        file=asked.file,
        command=command,
        num_ctx=num_ctx,
        verdict=verdict,
        plan=plan,
        card="" if shortest is None else shortest.name,
        shortfall=plan.shortfall,
        best=best,
        mended=mended,
        notes=(*said, *_notes(asked, num_ctx, loaded, plan)),
    )


def _verdict(asked: _Asked, plan: Plan) -> tuple[Verdict, tuple[str, ...]]:
    """Judge the plan, and say what there is to say of it.

    An engine that fits models by itself moves layers away, unless it was told how many; else memory runs out.
    """
    split = Settings(tensor_split=asked.given.get("tensor_split", ()))
    told = plan.settings.n_gpu_layers >= 0 or split_is_given(split)
    if asked.engine == "ollama-before-0.30" and not told and asked.gpus:
        return _by_old_layout(plan)
    if plan.fits:
        return Verdict.FITS, ()
    moves = asked.engine == "ollama" and not told and not plan.settings.cpu_tensors
    return Verdict.SPILLS if moves else Verdict.CRASHES, ()


def _by_old_layout(plan: Plan) -> tuple[Verdict, tuple[str, ...]]:
    """Judge a plan by the estimate of Ollama 0.11 to 0.29, which says how many layers go to the host."""
    model, gpus, settings = plan.model, plan.gpus, plan.settings
    used = devices(gpus, settings)
    own = model.architecture in old_layout.OWN_ENGINE
    graph = max(g.compute for g in plan.estimate.gpus) if own else None
    found = old_layout.layout(model, [gpus[i] for i in used], settings, graph)
    n_layers = model.n_layer + 1
    if plan.fits:
        said = f"Ollama 0.11 to 0.29 count more than this takes, and leave {found.n_host} of {n_layers} layers to the host"
        return Verdict.FITS, () if found.full else (f"{said}: PARAMETER num_gpu {n_layers} prevents it",)
    loaded = estimate(model, [gpus[i] for i in used], old_layout.as_settings(found, settings))
    split = " + ".join(map(str, found.counts))
    if not found.full and (own or loaded.fits):
        return Verdict.SPILLS, (
            f"Ollama 0.11 to 0.29 leave {found.n_host} of {n_layers} layers to the host ({split} on the cards): slow, but it runs",
        )
    left = format_bytes(min(g.left for g in loaded.gpus if g.total)) if any(found.counts) else "nothing"
    verdict = Verdict.CRASHES
    if found.full and loaded.fits:
        safe = all(g.left >= plan.margin_bytes for g in loaded.gpus if g.total)
        verdict = Verdict.DEPENDS if safe else verdict
        said = (
            f"which leaves {left} on the fullest card; by free memory, as older ones split, it does not fit"
        )
    else:
        said = f"which is {left.removeprefix('-')} more than the fullest card has"
    return verdict, (f"Ollama 0.11 to 0.29 put {split} of {n_layers} layers on the cards, {said}",)


def _largest(asked: _Asked, below: int) -> int:
    """Find the largest context a slot up to `below`, a multiple of 256, that fits; 0 when none does.

    The batch hangs on the context where Ollama chooses it, so each batch that it may choose is asked for its
    largest context, of which the nearest below gets that batch.
    """
    steps = range(below - below % CONTEXT_STEP, 0, -CONTEXT_STEP)
    chosen = dict(zip(steps, asked.batches(steps), strict=True))
    found = []
    for batch in set(chosen.values()):
        settings = replace(asked.settings(CONTEXT_STEP, batch), n_ctx=0)
        most = asked.plan(settings, max_ctx=below * asked.slots).estimate.n_ctx_seq
        found.append(next((n for n in steps if n <= most and chosen[n] == batch), 0))
    return next((n for n in sorted(found, reverse=True) if n and asked.plan(asked.settings(n)).fits), 0)


def _notes(asked: _Asked, num_ctx: int, loaded: int, plan: Plan) -> list[str]:
    said = []
    if loaded < num_ctx:
        said.append(f"Ollama loads {loaded:,}: the model was trained for no more")
    if plan.estimate.n_ctx_seq > loaded:
        said.append(f"the engine rounds it up to {plan.estimate.n_ctx_seq:,}")
    said += plan.warnings
    if plan.fits and plan.estimate.gpus:
        spare = min((g.left for g in plan.estimate.gpus if g.total), default=0) - plan.margin_bytes
        said.append(f"{format_bytes(max(0, spare))} to spare beyond the margin")
    others = asked.file.values("from")[1:] + asked.file.values("adapter") + asked.file.values("draft")
    if others:
        said.append(f"not counted: {', '.join(others)}")
    return said
