"""Choose the engine that a plan is for, and print what to run there: `--engine` and `--client`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from .._devices import Gpu, Host
    from .._llama.model import Model
    from .._llama.params import Settings
    from .._planner.plan import Plan

__all__ = ["engine_options", "show_commands", "solved"]

F = TypeVar("F", bound=Callable[..., Any])

# As in `engines`, which is imported when a plan is made for one.
ENGINES: Final = ("llama-server", "ollama", "ollama-before-0.30", "llama-cpp-python", "lm-studio")
CLIENTS: Final = ("aider", "cline", "continue", "opencode", "roo")


class _EngineName(click.Choice[str]):
    """One of the engines, as it is or with a version behind an @; auto asks what is installed."""

    name = "engine"

    def __init__(self) -> None:
        super().__init__(ENGINES)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(ENGINES)}|auto][@VERSION]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "auto":
            return self._installed(param, ctx)
        if not isinstance(value, str) or "@" not in value:
            return super().convert(value, param, ctx)
        from .._base.errors import SettingsError
        from .._engines.table import named

        try:
            named(value)
        except SettingsError as e:
            self.fail(str(e), param, ctx)
        return value

    def _installed(self, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from .installed import installed

        found = installed()
        if not found:
            self.fail("neither llama-server nor ollama answers here; name the engine", param, ctx)
        return found


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
        type=_EngineName(),
        default=None,
        help="Plan with this engine's defaults and its own split, and print what to run; auto: the one installed here.",
    )(command)


def solved(
    model: Model,
    gpus: Sequence[Gpu],
    settings: Settings,
    engine: str | None,
    margin: int,
    max_ctx: int | None,
    host: Host | None = None,
) -> Plan:
    """Plan: for the engine where one was named, else with the settings as they are."""
    if engine is None:
        from .._planner.plan import plan

        return plan(model, gpus, settings, margin_bytes=margin, max_ctx=max_ctx, host=host)
    from .._engines.choose import plan_for

    return plan_for(model, gpus, settings, engine, margin_bytes=margin, max_ctx=max_ctx, host=host)


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
