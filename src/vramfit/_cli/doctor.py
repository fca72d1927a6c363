"""`vramfit doctor`: what this machine has, what it would not tell, and what to do."""

from __future__ import annotations

import click

from .screen import look

__all__ = ["doctor"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def doctor(as_json: bool) -> None:
    """Show what was found on this machine: cards, their backends and free memory, the host's memory, engines and builds.

    \b
    vramfit doctor
    vramfit doctor --json

    Says what could not be asked and why, who holds memory of a card, and what to do next. Changes nothing.
    """
    from .._engines.doctor import doctor as diagnose
    from .._report.doctor import doctor_json, doctor_text

    found = diagnose()
    click.echo(doctor_json(found) if as_json else doctor_text(found, look()))
