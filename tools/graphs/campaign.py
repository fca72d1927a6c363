"""Random headers around real ones, each proved: `run` in short.

Every header is drawn, written and proved in a process of its own: some headers end the engine.
"""

from __future__ import annotations

import multiprocessing
import os
import pathlib
import random
import shutil
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Final

from tools.engine.binding import engine
from tools.engine.models import MIXTURES, make_model
from tools.engine.sample import TYPES, draw_dims
from vramfit._base.errors import ModelError, VramfitError

from .cases import SETTINGS, cases, read
from .draft import Draft
from .prove import FAULTS, Oracle, Proof, Report, prove_case
from .vary import Edit, applied, draw_edits, draw_overrides

__all__ = ["Campaign", "run"]

_SECONDS: Final = 180  # that one header may take
_SETTINGS: Final = 4  # that one header is proved under
_ATTEMPTS: Final = 12  # at a model that the engine makes, with other draws
_TIES: Final = (0, 0, 1, 2, 3)


@dataclass(frozen=True, slots=True)
class Campaign:
    """What to draw from. `headers` are files of the architecture; without any, `make` makes the first header."""

    architecture: str
    seed: str
    oracle: Oracle
    headers: Sequence[pathlib.Path] = ()
    make: bool = True  # whether to make models, too, which needs the engine
    keep: pathlib.Path | None = None  # a folder for the headers that differ
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: SETTINGS)


def run(campaign: Campaign, report: Report, runs: range) -> None:
    """Prove so many random headers, and count what comes of them."""
    if campaign.make:
        engine()  # once, before the processes part
    for number in runs:
        for proof in _apart(_one, campaign, number):
            report.add(proof)


def _one(campaign: Campaign, number: int) -> list[Proof]:
    """One random header under some settings."""
    rng = random.Random(f"{campaign.seed} {campaign.architecture} {number}")
    chosen = dict(rng.sample(sorted(campaign.settings.items()), min(_SETTINGS, len(campaign.settings))))
    with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
        path = pathlib.Path(folder, f"{campaign.architecture}-{campaign.seed}-{number}.gguf")
        try:
            draft, said = _base(campaign, rng, path)
        except Exception as e:
            return [_said(campaign, path, "refused", f"no model to begin with: {e}")]
        edits = draw_edits(rng, draft)
        found = _proofs(path, applied(draft, edits), chosen, campaign.oracle)
        bad = next((p for p in found if p.outcome in FAULTS), None)
        if bad is None:
            return found
        fewest = _fewest(path, draft, edits, {bad.settings: chosen[bad.settings]}, campaign.oracle)
        if campaign.keep:
            campaign.keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, campaign.keep)
        words = (f"run {number}: {said}", *(f"edit: {e.words}" for e in fewest))
        return [p._replace(details=(*words, *p.details)) if p is bad else p for p in found]


def _base(campaign: Campaign, rng: random.Random, path: pathlib.Path) -> tuple[Draft, str]:
    """A header to begin with, and which it is."""
    if campaign.headers and (not campaign.make or rng.random() < 0.5):
        header = rng.choice(campaign.headers)
        return Draft.read(header), header.name
    if not campaign.make:
        raise ModelError(f"no header of {campaign.architecture} was given")
    last: Exception | None = None
    for _ in range(_ATTEMPTS):
        dims, overrides = draw_dims(rng, rng.choice(_TIES)), draw_overrides(rng)
        experts = campaign.architecture in MIXTURES or rng.random() < 0.4
        try:
            make_model(campaign.architecture, path, dims, overrides, rng.choice(TYPES), experts)
        except Exception as e:
            last = e
            continue
        return Draft.read(path), f"made of {dims} with {overrides}"
    raise last or RuntimeError("nothing was made")


def _proofs(path: pathlib.Path, draft: Draft, chosen: Mapping[str, Any], oracle: Oracle) -> list[Proof]:
    try:
        draft.write(path)
        drawn = list(cases(path, read(path), chosen))
    except (VramfitError, AssertionError, ValueError) as e:
        return [Proof(draft.architecture, path.name, "", "refused", f"not read: {e}")]
    found: list[Proof] = []
    for number, case in enumerate(drawn):
        found += prove_case(case, oracle)
        if number and all(p.outcome == "refused" for p in found):  # not for its settings
            return found[:1]
    return found


def _fewest(
    path: pathlib.Path, draft: Draft, edits: list[Edit], chosen: Mapping[str, Any], oracle: Oracle
) -> list[Edit]:
    """As few of the edits as still make a difference; the header that stays in the file has these alone."""
    kept = list(edits)
    for edit in edits:
        fewer = [e for e in kept if e is not edit]
        if any(p.outcome in FAULTS for p in _proofs(path, applied(draft, fewer), chosen, oracle)):
            kept = fewer
    applied(draft, kept).write(path)
    return kept


def _said(campaign: Campaign, path: pathlib.Path, outcome: str, what: str) -> Proof:
    return Proof(campaign.architecture, path.name, "", outcome, what)


def _apart(work: Callable[[Campaign, int], list[Proof]], campaign: Campaign, number: int) -> list[Proof]:
    """Do it in a process of its own; one that dies or hangs is a refusal."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=_send, args=(theirs, work, campaign, number))
    process.start()
    theirs.close()
    name = pathlib.Path(f"run {number}")
    try:
        if not ours.poll(_SECONDS):
            return [_said(campaign, name, "died", f"took more than {_SECONDS} s")]
        found: list[Proof] = ours.recv()
        return found
    except EOFError:
        process.join()
        return [_said(campaign, name, "died", f"the process ended with {process.exitcode}")]
    finally:
        if process.is_alive():
            process.join(1)
        if process.is_alive():
            process.kill()
        process.join()
        ours.close()


def _send(
    connection: Connection, work: Callable[[Campaign, int], list[Proof]], campaign: Campaign, number: int
) -> None:
    try:
        found = work(campaign, number)
    except Exception:
        found = [_said(campaign, pathlib.Path(f"run {number}"), "failed", traceback.format_exc()[-600:])]
    connection.send(found)
    connection.close()
    os._exit(0)
