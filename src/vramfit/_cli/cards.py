"""Choose the cards that a command plans for: `--gpus`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

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


def cards(spec: str | None, engine: str | None = None) -> tuple[Gpu, ...]:
    """Find the cards that `--gpus` names, else those of this machine that `engine` uses. Raises `GpuError`."""
    if spec is None or spec.strip().lower() == "auto":
        from .._devices.detect import own_cards

        return own_cards(engine)
    from .._devices import parse_gpus

    return parse_gpus(spec)
