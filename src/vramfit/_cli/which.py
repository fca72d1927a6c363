"""`vramfit which`: lists the cards that hold a context."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from .cards import host_memory, host_option
from .models import Choice, model_options
from .options import EXIT_DOES_NOT_FIT, Command, line, settings_options, show_notes, size, to_settings
from .screen import look

if TYPE_CHECKING:
    from .._planner.which import Sort

__all__ = ["which"]


@click.command(cls=Command, epilog="Exit status: 0 something holds it, 3 nothing does, 1 error, 2 usage.")
@model_options
@click.option(
    "--max-cards",
    type=click.IntRange(1, 2),
    default=2,
    show_default=True,
    metavar="N",
    help="Cards together: 1 or 2.",
)
@click.option(
    "-g",
    "--gpus",
    metavar="WORDS",
    help="Choose among these: nvidia, amd, intel, apple, desktop, laptop, jetson, two of them as in 'amd desktop', or"
    " cards: 3090,5060ti. Default: the catalogue.",
)
@host_option
@click.option(
    "--sort",
    type=click.Choice(["memory", "bandwidth", "speed"]),
    default="memory",
    show_default=True,
    help="Least memory first, or most GB/s or tokens/s.",
)
@click.option("--margin", type=size, default="1GiB", show_default=True, help="Left free on every card.")
@click.option("--all", "everything", is_flag=True, help="List every card and pair, not the smallest few.")
@settings_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text; it lists them all.")
def which(
    model: Choice, max_cards: int, gpus: str | None, host: str | None, sort: Sort, margin: int, everything: bool,
    as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """List the cards and pairs of cards that hold a context, least memory first.

    Cards with as much free memory and bandwidth are one line. Pairs are listed where neither card alone is enough.
    Laptops' chips, Jetsons and Macs come with their computer: they are listed behind cards, and make no pairs.
    Without --ctx, the context is the trained one.

    \b
    vramfit which model.gguf --ctx 65536
    vramfit which model.gguf --ctx 32768 -ctk q8_0 -ctv q8_0 --max-cards 1
    vramfit which model.gguf --ctx 32768 --gpus nvidia --sort speed
    """
    from .._planner.which import which as find
    from .._report.shortlist import shortlist_json, shortlist_text

    memory = host_memory(host, "named", ())
    found = find(
        model.read(),
        to_settings(options),
        max_cards=max_cards,
        margin_bytes=margin,
        gpus=gpus,
        sort=sort,
        host=memory,
    )
    click.echo(
        shortlist_json(found, line().passed_over)
        if as_json
        else shortlist_text(found, look(), everything=everything)
    )
    if not as_json:
        show_notes(warnings=True)
    if not found.fits:
        sys.exit(EXIT_DOES_NOT_FIT)
