"""Hold what stays the same while changes are tried: the model, the cards, what was asked, who plans.

Contexts here are tokens of one slot, so that fewer slots are not mistaken for less context.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ..._base.errors import EngineRefusal, SettingsError
from ..._coerce import (
    AnyGpus,
    AnyHost,
    AnyModel,
    AnySettings,
    bandwidth,
    call,
    cards,
    host_of,
    margin,
    model_of,
    settings_of,
)
from ..._coerce import max_ctx as limit
from ..._estimate.estimate import estimate
from ..._llama.cparams import CONTEXT_STEP, streams
from ..._llama.model import Model
from ..._llama.params import Settings
from ..plan import Plan, carries, host_holds, may_carry, plan
from ..quality import cache_measure
from ..search import last_where
from ..segments import Learned
from .changes import flags
from .costs import costs, extra_host_read, tokens_per_second
from .nouns import Alternative

__all__ = ["LEAST", "Planner", "Question", "question"]

LEAST: Final = 4096  # tokens that make a model usable: fit_params_min_ctx, common.h:480
Checker = Callable[[Settings], bool]  # settings with a context -> whether it fits
Planner = Callable[[Settings, "int | None"], Plan]  # settings and max_ctx (tokens of all slots) -> plan


@dataclass(frozen=True, slots=True)
class Question:
    """A question whose answer as asked is known."""

    asked: Plan
    settings: Settings  # as asked: `asked.settings` has the answer's context and split
    max_ctx: int | None
    planner: Planner
    host_bandwidth_gbs: float | None = None
    checker: Checker | None = None
    guesser: Callable[[Settings, float], bool] | None = (
        None  # settings, how much too hopeful -> whether it may
    )

    @property
    def model(self) -> Model:
        """The model asked about."""
        return self.asked.model

    @property
    def goal(self) -> int:
        """The context asked about, or the largest that may be answered."""
        if self.settings.n_ctx:
            return self.asked.estimate.n_ctx_seq
        slots = streams(self.settings)
        most = self.model.n_ctx_train if self.max_ctx is None else self.max_ctx // slots
        return max(CONTEXT_STEP, most // CONTEXT_STEP * CONTEXT_STEP)

    @property
    def reached(self) -> int:
        """The context that fits as asked, 0 for none."""
        return self.asked.estimate.n_ctx_seq if self.asked.fits else 0

    @property
    def has_host(self) -> bool:
        """Whether the host's memory is another than that of the cards in use: if not, moving there gains nothing."""
        cards = zip(self.asked.gpus, self.asked.estimate.gpus, strict=True)
        return not all(gpu.unified for gpu, device in cards if device.total)

    @property
    def has_limits(self) -> bool:
        """Whether any memory limits the answer as asked: without a card, that of a host that is known."""
        return self.asked.host is not None or any(g.total for g in self.asked.estimate.gpus)

    def within_host(self, levels: Sequence[Settings], n_ctx: int) -> Sequence[Settings]:
        """The first of `levels`, each with more on the host than those before, that a host of known memory holds."""
        if self.asked.host is None:
            return levels
        asked, at_ctx = self.asked, n_ctx * streams(self.settings)

        def holds(at: int) -> bool:
            settings = replace(levels[at], n_ctx=at_ctx)
            return host_holds(
                self.model, asked.gpus, settings, margin_bytes=asked.margin_bytes, host=asked.host
            )

        most = last_where(holds, -1, len(levels) - 1)  # by what is added up, then by replays of few
        last = last_where(lambda at: self._holds_compute(replace(levels[at], n_ctx=at_ctx)), -1, most)
        return levels[: last + 1]

    def _holds_compute(self, settings: Settings) -> bool:
        """Whether the host has room with its compute buffer, whatever the cards have."""
        try:
            found = estimate(self.model, self.asked.gpus, settings, host=self.asked.host)
        except EngineRefusal:
            return False
        return found.host.left >= self.asked.margin_bytes

    def answer(self, settings: Settings) -> Plan | None:
        """Plan for other settings; None where the engine refuses them or cannot be told."""
        max_ctx = self.max_ctx
        if max_ctx is not None:
            max_ctx = max(1, max_ctx * streams(settings) // streams(self.settings))
        try:
            return self.planner(settings, max_ctx)
        except (EngineRefusal, SettingsError):  # as asked was neither: it is the change that cannot be
            return None

    def carries(self, settings: Settings, n_ctx: int) -> bool:
        """Tell whether `n_ctx` tokens per slot fit with other settings."""
        settings = replace(settings, n_ctx=n_ctx * streams(settings))
        if self.checker is None:
            found = self.answer(settings)
            return found is not None and found.fits
        try:
            return self.checker(settings)
        except (EngineRefusal, SettingsError):
            return False

    def may_carry(self, settings: Settings, n_ctx: int, less: float = 0) -> bool:
        """Guess what `carries` says, much cheaper; compute buffers may be by a part `less`. No, if none guesses."""
        try:
            at = replace(settings, n_ctx=n_ctx * streams(settings))
            return self.guesser is not None and self.guesser(at, less)
        except (EngineRefusal, SettingsError):
            return False

    def alternative(self, kind: str, settings: Settings) -> Alternative | None:
        """Answer the question with other settings; None where there is no answer."""
        found = self.answer(settings)
        return None if found is None else self.described(kind, settings, found)

    def described(self, kind: str, settings: Settings, found: Plan) -> Alternative:
        """Compare a plan for other settings with the plan as asked."""
        return Alternative(
            kind=kind,
            flags=flags(self.settings, settings),
            before=self.reached,
            plan=found,
            costs=costs(self.asked, found),
            host_bytes=extra_host_read(self.asked, found),
            tokens_per_second=tokens_per_second(found, self.host_bandwidth_gbs),
            measure=cache_measure(found.settings.type_k, found.settings.type_v),
        )


def question(
    model: AnyModel,
    gpus: AnyGpus,
    settings: AnySettings,
    margin_bytes: int | str,
    max_ctx: int | str | None,
    host_bandwidth_gbs: float | None,
    planner: Planner | None,
    advance: Callable[[], None] = lambda: None,
    host: AnyHost = None,
) -> Question:
    """Answer the question as asked; `advance` is called before each plan. Raises what `plan` raises."""
    described, on, left = model_of(model), cards(gpus), margin(margin_bytes)
    asked, most = settings_of(settings), limit(max_ctx)
    host_bandwidth_gbs = bandwidth("host_bandwidth_gbs", host_bandwidth_gbs)
    call("planner", planner)
    learned: Learned = {}
    memory = host_of(host, on)

    def solve(settings: Settings, max_ctx: int | None) -> Plan:
        advance()
        return plan(described, on, settings, margin_bytes=left, max_ctx=max_ctx, learned=learned, host=memory)

    def fits(settings: Settings) -> bool:
        advance()
        return carries(described, on, settings, margin_bytes=left, learned=learned, host=memory)

    def may_fit(settings: Settings, less: float) -> bool:
        return may_carry(described, on, settings, margin_bytes=left, learned=learned, less=less, host=memory)

    def told(settings: Settings, max_ctx: int | None) -> Plan:
        assert planner is not None
        advance()
        return planner(settings, max_ctx)

    if planner:
        return Question(told(asked, most), asked, most, told, host_bandwidth_gbs)
    return Question(solve(asked, most), asked, most, solve, host_bandwidth_gbs, fits, may_fit)
