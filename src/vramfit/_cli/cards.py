"""Choose the cards that a command plans for, and the host beside them: `--gpus`, `--host`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import click

from .._base.errors import GpuError

if TYPE_CHECKING:
    from .._devices import Gpu, Host

__all__ = ["cards", "cards_option", "host_memory", "host_option"]

# What llama-server's own --host says beside other flags: the address that it listens on, which sizes nothing.
_ADDRESS: Final = re.compile(r"localhost|\d{1,3}(\.\d{1,3}){3}|[0-9a-fA-F]*::[0-9a-fA-F:]*|.*\.sock")

cards_option: Final = click.option(
    "-g",
    "--gpus",
    "gpus",
    default=None,
    metavar="CARDS",
    help="Cards: 3090ti,3060 or 2x4090 or 24GiB or 3090ti:22000MiB (free memory) or none. Default, or auto: the cards of this machine.",
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
    if spec is None or spec.strip().lower() == "auto":
        from .._devices.detect import own_cards

        return own_cards(engine)
    from .._devices import parse_gpus

    return parse_gpus(spec)
