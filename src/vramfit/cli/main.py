"""The commands: each parses, calls one function and prints what it returned."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from .. import __version__
from ..errors import VramfitError
from .cards import cards, cards_option
from .compare import compare
from .engines import engine_options, show_commands, solved
from .modelfile import modelfile
from .models import Choice, model_options
from .options import EXIT_DOES_NOT_FIT, settings_options, size, to_settings
from .pictures import picture_options, write_pictures

if TYPE_CHECKING:
    from ..solve import Plan

__all__ = ["main"]

EXIT_ERROR = 1


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

    MODEL is a GGUF file (any shard of a split one), a URL, hf.co/user/repo:Q8_0, or a model of Ollama or LM
    Studio, here or in its registry; its header is all that is read.

    \b
    vramfit plan model.gguf --gpus 3090ti,3060
    vramfit inspect model.gguf
    vramfit gpus 4090
    """


_json = click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")


@main.command(epilog="Exit status: 0 it fits, 3 it does not, 1 error, 2 usage.")
@model_options
@cards_option
@click.option("--margin", type=size, default="1GiB", show_default=True, help="Left free on every card.")
@click.option(
    "--max-ctx", type=int, default=None, metavar="N", help="Largest context. Default: the trained one."
)
@settings_options
@engine_options
@click.option(
    "--explain", is_flag=True, help="Show the terms of every figure, and what a compute buffer holds."
)
@picture_options
@_json
def plan(
    model: Choice, gpus: str | None, margin: int, max_ctx: int | None, explain: bool, plot: str | None,
    html: str | None, engine: str | None, client: str | None, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """The largest context that fits, and the split of the layers that carries it.

    \b
    vramfit plan model.gguf --gpus 3090ti,3060
    vramfit plan model.gguf --gpus 2x4090 -ctk q8_0 -ctv q8_0 -fa on
    vramfit plan model.gguf --gpus 24GiB --ctx 32768
    vramfit plan model.gguf --gpus 3090ti,3060 --engine ollama --client aider
    """
    from ..report import plans

    settings = to_settings(options)
    result = solved(model.read(), cards(gpus), settings, engine, margin, max_ctx)
    write_pictures(result, plot, html)
    click.echo(plans.plan_json(result, engine) if as_json else plans.plan_text(result))
    if explain and not as_json:
        _explain(result)
    if not as_json:
        show_commands(result, engine, client)
    if not result.fits:
        sys.exit(EXIT_DOES_NOT_FIT)


def _explain(result: Plan) -> None:
    from ..explain import explain
    from ..report.explained import explained_text

    click.echo("\n" + explained_text(explain(result.model, result.gpus, result.settings)))


@main.command()
@model_options
@_json
def inspect(model: Choice, as_json: bool) -> None:
    """What the header says: identity, size, context, attention, cache, tensor types.

    \b
    vramfit inspect model.gguf
    vramfit inspect hf.co/lmstudio-community/Qwen2.5-14B-Instruct-1M-GGUF:Q8_0
    vramfit inspect qwen2.5-coder:32b
    vramfit inspect model.gguf --json
    """
    from ..load import read
    from ..report import describe
    from ..report.companions import companions_text

    resolved = model.resolve()
    described = read(resolved, assume=model.assume)
    click.echo(describe.model_json(described, resolved) if as_json else describe.model_text(described))
    if not as_json and (found := companions_text(resolved)):
        click.echo(found)


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
    from ..gpus import validate_catalogue
    from ..report import cards as catalogue

    if check:
        click.echo(f"{validate_catalogue()} cards, no faults")
        return
    click.echo(catalogue.gpus_json(name) if as_json else catalogue.gpus_text(name))


main.add_command(compare)
main.add_command(modelfile)
