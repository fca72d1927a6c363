"""Choose what to give up for more context: `--prefer` and `--alternatives`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

from .engines import solved
from .options import tokens

if TYPE_CHECKING:
    from .._devices import Gpu, Host
    from .._llama.model import Model
    from .._llama.params import Settings
    from .._planner.plan import Plan
    from .._planner.segments import Learned
    from .._planner.whatif import Alternative, Alternatives
    from .._planner.whatif.question import Planner

__all__ = ["Asked", "trade_options"]

F = TypeVar("F", bound=Callable[..., Any])

PREFERENCES: Final = (
    "speed",
    "quality",
    "context",
)  # as in `_planner.whatif`, which is imported when it is asked


def trade_options(command: F) -> F:
    """Add `--prefer`, `--alternatives`, `--all`, `--host-bandwidth`, `--next` and `--next-ctx`."""
    command = click.option(
        "--next-ctx", type=tokens, default=None, metavar="N", help="Its context. Default: the trained one."
    )(command)
    command = click.option(
        "--next",
        "next_name",
        default=None,
        metavar="MODEL|SIZE",
        help="Say which context leaves room for another model: one that is named, or one of this size on one card (4GiB).",
    )(command)
    command = click.option(
        "--all", "everything", is_flag=True, help="List every alternative, even those of unknown cost."
    )(command)
    command = click.option(
        "--host-bandwidth",
        "host_bandwidth",
        type=float,
        default=None,
        metavar="GB/S",
        help="Memory bandwidth of the host, for the speed of plans and alternatives that read from it.",
    )(command)
    command = click.option(
        "--alternatives",
        "show_alternatives",
        is_flag=True,
        help="Show the context that other settings reach, and what each costs. If nothing fits, a few are shown unasked.",
    )(command)
    return click.option(
        "--prefer",
        type=click.Choice(PREFERENCES),
        default=None,
        help="If the model does not fit, change settings at the least cost to this. With `context`, also grow a context that fits.",
    )(command)


class Asked(NamedTuple):
    """What the command was asked, to be planned as it is or with changes."""

    model: Model
    gpus: Sequence[Gpu]
    settings: Settings
    engine: str | None
    margin: int
    max_ctx: int | None
    host_bandwidth: float | None = None
    host: Host | None = None

    def plan(self) -> Plan:
        """Plan as asked."""
        return solved(self.model, self.gpus, self.settings, self.engine, self.margin, self.max_ctx, self.host)

    def best(self, prefer: str) -> Alternative:
        """Plan with what a preference changes."""
        from .._planner.whatif import best

        return best(self.model, self.gpus, self.settings, prefer=prefer, **self._how())

    def trades(self, prefer: str | None, *, brief: bool, any_context: bool = False) -> Alternatives:
        """Plan with every change alone; `any_context` asks for the largest, whatever was asked."""
        from .._planner.whatif import trades

        settings = replace(self.settings, n_ctx=0) if any_context else self.settings
        return trades(self.model, self.gpus, settings, prefer=prefer, brief=brief, **self._how())

    def _how(self) -> dict[str, Any]:
        return {
            "margin_bytes": self.margin,
            "max_ctx": self.max_ctx,
            "host_bandwidth_gbs": self.host_bandwidth,
            "planner": self._planner(),
            "host": self.host,
        }

    def _planner(self) -> Planner | None:
        """Return the engine's planner, where one was named."""
        if self.engine is None:
            return None
        from .._engines.choose import plan_for

        engine = self.engine
        learned: Learned = {}

        def planner(settings: Settings, max_ctx: int | None) -> Plan:
            return plan_for(
                self.model,
                self.gpus,
                settings,
                engine,
                margin_bytes=self.margin,
                max_ctx=max_ctx,
                host=self.host,
                compare=False,
                learned=learned,
            )

        return planner
