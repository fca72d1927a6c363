"""The commands: each parses, calls one function and prints what it returned."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from .. import __version__
from ..errors import GpuError, SettingsError, VramfitError
from .options import settings_options, size, to_settings

if TYPE_CHECKING:
    from ..gpus import Gpu

__all__ = ["main"]

EXIT_ERROR = 1
EXIT_DOES_NOT_FIT = 3


class _Commands(click.Group):
    """Turns every `VramfitError` into one line on standard error and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except VramfitError as e:
            click.echo(f"vramfit: {e}", err=True)
            sys.exit(EXIT_ERROR)


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="vramfit")
def main() -> None:
    """What a GGUF model will allocate on your GPUs, and the largest context that is still safe.

    MODEL is a GGUF file (any shard of a split one); its header is all that is read.

    \b
    vramfit plan model.gguf --gpus 3090ti,3060
    vramfit inspect model.gguf
    vramfit gpus 4090
    """


_model = click.argument("model_argument", metavar="MODEL", required=False)
_model_option = click.option("-m", "--model", "model_option", metavar="MODEL", hidden=True)
_assume = click.option("--assume", metavar="ARCH", help="Read an unknown architecture as this one.")
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")


@main.command(epilog="Exit status: 0 it fits, 3 it does not, 1 error, 2 usage.")
@_model
@_model_option
@click.option(
    "-g",
    "--gpus",
    "gpus",
    default=None,
    metavar="CARDS",
    help="Cards: 3090ti,3060 or 2x4090 or 24GiB or 3090ti:22000MiB (free memory) or none. Default: the cards of this machine.",
)
@click.option("--margin", type=size, default="1GiB", show_default=True, help="Left free on every card.")
@click.option(
    "--max-ctx", type=int, default=None, metavar="N", help="Largest context. Default: the trained one."
)
@settings_options
@_assume
@_json
def plan(model_argument: str | None, model_option: str | None, gpus: str, margin: int,
         max_ctx: int | None, assume: str | None, as_json: bool, **options: Any) -> None:  # fmt: skip
    """The largest context that fits, and the split of the layers that carries it.

    \b
    vramfit plan model.gguf --gpus 3090ti,3060
    vramfit plan model.gguf --gpus 2x4090 -ctk q8_0 -ctv q8_0 -fa on
    vramfit plan model.gguf --gpus 24GiB --ctx 32768
    """
    from .. import report
    from ..load import read
    from ..solve import plan as solve

    settings = to_settings(options)
    model = read(_reference(model_argument, model_option), assume=assume)
    result = solve(model, _cards(gpus), settings, margin_bytes=margin, max_ctx=max_ctx)
    click.echo(report.plan_json(result) if as_json else report.plan_text(result))
    if not result.fits:
        sys.exit(EXIT_DOES_NOT_FIT)


@main.command()
@_model
@_model_option
@_assume
@_json
def inspect(model_argument: str | None, model_option: str | None, assume: str | None, as_json: bool) -> None:
    """What the header says: identity, size, context, attention, cache, tensor types.

    \b
    vramfit inspect model.gguf
    vramfit inspect model.gguf --json
    """
    from .. import report
    from ..load import read

    model = read(_reference(model_argument, model_option), assume=assume)
    click.echo(report.model_json(model) if as_json else report.model_text(model))


@main.command()
@click.argument("name", required=False)
@click.option("--check", is_flag=True, help="Check the catalogue and report every fault at once.")
@_json
def gpus(name: str | None, check: bool, as_json: bool) -> None:
    """The cards that vramfit knows, or what it knows of one.

    \b
    vramfit gpus
    vramfit gpus "rtx 3090 Ti"
    """
    from .. import report
    from ..gpus import validate_catalogue

    if check:
        click.echo(f"{validate_catalogue()} cards, no faults")
        return
    click.echo(report.gpus_json(name) if as_json else report.gpus_text(name))


def _cards(spec: str | None) -> tuple[Gpu, ...]:
    from ..gpus import detect_gpus, parse_gpus

    if spec is not None:
        return parse_gpus(spec)
    found = detect_gpus()
    if not found:
        raise GpuError("no cards found on this machine; name them, as in --gpus 3090ti,3060, or --gpus none")
    return found


def _reference(argument: str | None, option: str | None) -> str:
    if argument and option:
        raise SettingsError(f"two models given: {argument} and {option}")
    return argument or option or _missing_model()


def _missing_model() -> NoReturn:
    raise click.UsageError("Missing argument 'MODEL'.", click.get_current_context())
