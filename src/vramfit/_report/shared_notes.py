"""What else is to be known of several models on one machine: of each under its name, and once what holds for all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from .._base.foreign import printable
from .._base.units import format_bytes
from .._devices import told_apart
from .._planner.bounds import speed_of
from .._planner.host import host_sentence
from .._planner.older import more_on_each, most_needed, rules_sentence
from .._planner.plan import Plan
from .._planner.shared import SharedPlan
from .look import Marked
from .machines import network_sentence
from .plans import adapter_notes, company_notes, model_facts, settings_words
from .safety import lent_lines, model_notes, overhead_lines
from .shared_facts import PROCESSES, names
from .speeds import bounds_words, speed_sentence

__all__ = ["OfModel", "SharedNotes", "shared_notes"]

SPEED: Final = "Speed while the others wait"


class OfModel(NamedTuple):
    """What a model is, and what holds for it and not for all; a warning is marked."""

    title: str
    said: tuple[str, ...]


class SharedNotes(NamedTuple):
    """What holds for all models, and what for each of them; warnings are marked."""

    common: tuple[str, ...]
    models: tuple[OfModel, ...]


def shared_notes(plan: SharedPlan, host_bandwidth_gbs: float | None = None) -> SharedNotes:
    """Say of each model what holds for it, and once what holds for all; the host reads so many GB/s."""
    called = names(plan)
    said = [list(_maybe_of_all(p)) for p in plan.plans]
    words = [[f"defaults of {p.settings.defaults}", *settings_words(p)] for p in plan.plans]
    shared, same = (_in_all(each) if len(plan.plans) > 1 else [] for each in (said, words))
    common = [f"Settings of all: {', '.join(same)}." if same else "", *shared, *_of_machine(plan)]
    common[:0] = [Marked(f"Warning: {w}", "warn") for w in plan.warnings]
    models = []
    for t, p in enumerate(plan.plans):
        settings = ", ".join(w for w in words[t] if w not in same)
        own = [f"Settings: {settings}." if settings else "", *(x for x in said[t] if x not in shared)]
        own += [*company_notes(p.estimate), *adapter_notes(p.model)]
        own += _where_loaded(p, host_bandwidth_gbs) if t in plan.loaded else ()
        models.append(OfModel(f"{called[t]}: {model_facts(p.model)}", _some(own)))
    if any(text.startswith(SPEED) for of in models for text in of.said):
        common.append("Speeds are upper bounds, no forecast: they count what has to be read for a token.")
    return SharedNotes(_some(common), tuple(models))


def _some(said: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in said if text))


def _in_all(said: list[list[str]]) -> list[str]:
    """What is said of every model, in the order of the first."""
    return [text for text in said[0] if all(text in each for each in said[1:])]


def _maybe_of_all(plan: Plan) -> Iterator[str]:
    """What is to be known of one model's plan and can be true of all."""
    estimate = plan.estimate
    for warning in plan.warnings:
        yield Marked(f"Warning: {warning}", "warn")
    if not estimate.compute_exact:
        yield f"Compute buffers are an upper bound, not exact: {estimate.compute_note}."
    elif estimate.exact and any(g.backend != "cuda" for g in plan.gpus):
        yield f"Exact. What the rules were checked against: {estimate.proof}."
    if plan.settings.engine_build:
        yield rules_sentence(plan.settings.engine_build, None)


def _where_loaded(plan: Plan, host_bandwidth_gbs: float | None) -> Iterator[str]:
    """What is to be known of one model that fits beside the others."""
    yield from model_notes(plan)
    yield host_sentence(plan.estimate)
    if any(g.remote for g in plan.gpus):
        yield network_sentence(plan)
    speed = speed_of(plan, host_bandwidth_gbs)
    said = bounds_words(speed)
    yield f"{SPEED}: {said}." if said else speed_sentence(speed)


def _of_machine(plan: SharedPlan) -> Iterator[str]:
    """What is to be known of the cards with all models on them."""
    used = [gpu for gpu, d in zip(plan.gpus, plan.devices, strict=False) if d.total]
    yield from overhead_lines(used)
    if any(plan.processes):
        yield (
            f"Each model runs in a process of its own. The row of {PROCESSES} is what drivers take for each but the first, which is"
            f" already out of what is free: {format_bytes(sum(plan.processes))} in all."
        )
    yield from lent_lines(used)
    if len(plan.loaded) > 1 and any(g.remote for g in used):  # ggml-rpc.cpp:2143-2151
        yield "An rpc-server serves one engine at a time: start one on a port of its own for each model there."
    yield _rules(plan)


def _rules(plan: SharedPlan) -> str:
    """Say whose rules count where no build was named, and what an older one would need more for all models together."""
    plain = [t for t, p in enumerate(plan.plans) if not p.settings.engine_build]
    if not plain:
        return ""
    more = [0] * len(plan.gpus)
    for t in set(plain) & set(plan.loaded):
        for card, n_bytes in zip(plan.cards[t], more_on_each(plan.plans[t]), strict=False):
            more[card] += n_bytes
    return printable(rules_sentence("", most_needed(told_apart(plan.gpus), more)))
