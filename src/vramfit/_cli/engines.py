"""Choose the engine that a plan is for, and print what to run there: `--engine` and `--client`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from .._devices import Gpu
    from .._llama.model import Model
    from .._llama.params import Settings
    from .._planner.plan import Plan

__all__ = ["engine_options", "show_commands", "solved"]

F = TypeVar("F", bound=Callable[..., Any])

# As in `engines`, which is imported when a plan is made for one.
ENGINES: Final = ("llama-server", "ollama", "ollama-before-0.30", "llama-cpp-python", "lm-studio")
CLIENTS: Final = ("aider", "cline", "continue", "opencode", "roo")


def engine_options(command: F) -> F:
    """Add `--engine` and `--client`."""
    command = click.option(
        "--client",
        type=click.Choice(CLIENTS),
        default=None,
        help="Print this client's configuration as well.",
    )(command)
    return click.option(
        "--engine",
        type=click.Choice(ENGINES),
        default=None,
        help="Plan with this engine's defaults and its own split, and print what to run.",
    )(command)


def solved(
    model: Model,
    gpus: Sequence[Gpu],
    settings: Settings,
    engine: str | None,
    margin: int,
    max_ctx: int | None,
) -> Plan:
    """Plan: for the engine where one was named, else with the settings as they are."""
    if engine is None:
        from .._planner.plan import plan

        return plan(model, gpus, settings, margin_bytes=margin, max_ctx=max_ctx)
    from .._engines.choose import plan_for

    return plan_for(model, gpus, settings, engine, margin_bytes=margin, max_ctx=max_ctx)


def show_commands(plan: Plan, engine: str | None, client: str | None) -> None:
    """Print what to run in the engine, and what to write for the client."""
    if not plan.fits:
        return
    if engine is not None:
        click.echo(f"\nRun:\n\n{plan.command(engine)}")
        if engine.startswith("ollama"):
            click.echo(f"\nModelfile:\n\n{plan.modelfile(engine).rstrip()}")
    if client is not None:
        from .._engines.clients import client_config

        click.echo(f"\n{client}:\n\n{client_config(plan, client)}")
