"""Choose the cards that a command plans for: `--gpus`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from .._base.errors import GpuError

if TYPE_CHECKING:
    from .._devices import Gpu

__all__ = ["cards", "cards_option"]

cards_option: Final = click.option(
    "-g",
    "--gpus",
    "gpus",
    default=None,
    metavar="CARDS",
    help="Cards: 3090ti,3060 or 2x4090 or 24GiB or 3090ti:22000MiB (free memory) or none. Default, or auto: the cards of this machine.",
)


def cards(spec: str | None) -> tuple[Gpu, ...]:
    """Find the cards that `--gpus` names, else those of this machine. Raises `GpuError`."""
    from .._devices import detect_gpus, parse_gpus

    if spec not in (None, "auto"):
        return parse_gpus(spec)
    found = detect_gpus()
    if not found:
        raise GpuError("no cards found on this machine; name them, as in --gpus 3090ti,3060, or --gpus none")
    return found
