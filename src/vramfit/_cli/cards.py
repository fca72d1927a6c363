"""Choose the cards that a command plans for, and the host beside them: `--gpus`, `--host`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from .._base.errors import GpuError

if TYPE_CHECKING:
    from .._devices import Gpu, Host

__all__ = ["cards", "cards_option", "host_memory", "host_option"]

# What llama-server's own --host says beside other flags: the address that it listens on, which sizes nothing.
_ADDRESS: Final = re.compile(r"localhost|\d{1,3}(\.\d{1,3}){3}|[0-9a-fA-F]*::[0-9a-fA-F:]*|.*\.sock")

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

host_option: Final = click.option(
    "--host",
    "host",
    default=None,
    metavar="SIZE",
    help="The host's memory: 64GiB, 64GiB:58GiB (free), 32GiB,avx2,avx512 (its CPU) or auto. A plan must fit there, too."
    " Default: that of this machine where its cards are found, else no limit.",
)


def host_memory(spec: str | None, gpus: str | None, found: tuple[Gpu, ...]) -> Host | None:
    """Find the host that `--host` names, or this machine's where its cards were found; None: no limit. Raises `GpuError`."""
    from .._devices import parse_host

    spec = None if spec and _ADDRESS.fullmatch(spec) else spec
    if spec is not None and spec.strip().lower() != "auto":
        try:
            return parse_host(spec)
        except GpuError as e:
            raise GpuError(
                f"{e}; behind -- a line of llama-server may name the address it listens on"
            ) from None
    if (spec is None and (gpus or "auto").strip().lower() != "auto") or any(g.unified for g in found):
        return None
    from .._devices.host_detection import detect_host

    host = detect_host()
    if host is None and spec is not None:
        raise GpuError(
            "--host auto: this machine does not say how much memory it has; give a size, as in --host 64GiB"
        )
    return host


def cards(spec: str | None, engine: str | None = None) -> tuple[Gpu, ...]:
    """Find the cards that `--gpus` names, else those of this machine that `engine` uses. Raises `GpuError`."""
    told = dict(click.get_current_context().meta.get(_MACHINES, {}))
    if spec is None or spec.strip().lower() == "auto":
        if told:
            raise GpuError(
                f"--{next(iter(told)).replace('_', '-')}: name the cards of each machine, as in --gpus 3090ti,mini/3060"
            )
        from .._devices.detect import own_cards

        return own_cards(engine)
    from .._devices import parse_gpus

    ask = told.pop("ask_servers", False)
    named = parse_gpus(spec, **told)
    if not ask:
        return named
    from .._devices.servers import ask_servers

    return ask_servers(named)
