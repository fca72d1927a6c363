"""Choose the cards that a command plans for: `--gpus`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from .._base.errors import GpuError

if TYPE_CHECKING:
    from .._devices import Gpu

__all__ = ["cards", "cards_option"]

_MACHINES: Final = "vramfit.machines"
F = TypeVar("F", bound=Callable[..., Any])


def _kept(ctx: click.Context, param: click.Parameter, value: str | bool | None) -> None:
    """Keep an option for `cards`, so that no command has to hand it on."""
    if value is not None:
        ctx.meta.setdefault(_MACHINES, {})[param.name] = value


def cards_option(command: F) -> F:
    """Add `--gpus`, and what it takes where cards are in several machines."""
    for option in reversed((_cards, _main, _link, _ask)):
        command = option(command)
    return command


_main: Final = click.option(
    "--main",
    default=None,
    metavar="MACHINE",
    expose_value=False,
    callback=_kept,
    help="Of several machines, the one that runs llama-server: the first, unless named; none: one without a card.",
)
_link: Final = click.option(
    "--link",
    default=None,
    metavar="SPEED",
    expose_value=False,
    callback=_kept,
    help="How fast other machines are reached: 1Gbit/s (assumed), 2.5Gbit/s, 10GbE.",
)
_ask: Final = click.option(
    "--ask-servers",
    is_flag=True,
    default=None,
    expose_value=False,
    callback=_kept,
    help="Ask the rpc-servers of other machines, which must run, how much memory is free.",
)
_cards: Final = click.option(
    "-g",
    "--gpus",
    "gpus",
    default=None,
    metavar="CARDS",
    help="Cards: 3090ti,3060 or 2x4090 or 24GiB or 3090ti:22000MiB (free memory) or none; mini/3090ti for a card of another machine. Default, or auto: the cards of this machine.",
)


def cards(spec: str | None) -> tuple[Gpu, ...]:
    """Find the cards that `--gpus` names, else those of this machine. Raises `GpuError`."""
    from .._devices import detect_gpus, parse_gpus

    told = dict(click.get_current_context().meta.get(_MACHINES, {}))
    if spec not in (None, "auto"):
        ask = told.pop("ask_servers", False)
        named = parse_gpus(spec, **told)
        if not ask:
            return named
        from .._devices.servers import ask_servers

        return ask_servers(named)
    if told:
        raise GpuError(
            f"--{next(iter(told)).replace('_', '-')}: name the cards of each machine, as in --gpus 3090ti,mini/3060"
        )
    found = detect_gpus()
    if not found:
        raise GpuError("no cards found on this machine; name them, as in --gpus 3090ti,3060, or --gpus none")
    return found
