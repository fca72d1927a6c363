"""The commands: each parses, calls one function and prints what it returned."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import click

from .._base.errors import VramfitError
from .._base.version import __version__
from .cards import cards, cards_option, host_memory, host_option
from .engines import engine_options, show_commands
from .installed import build_here
from .models import (
    Choice,
    Choices,
    chosen,
    for_one_alone,
    model_options,
    several_model_options,
    several_options,
)
from .options import (
    EXIT_DOES_NOT_FIT,
    Command,
    line,
    settings_options,
    show_notes,
    size,
    to_settings,
    tokens,
    warned,
)
from .pictures import picture_options, write_pictures
from .screen import look, show_error
from .trades import Asked, trade_options

if TYPE_CHECKING:
    from .._planner.plan import Plan
    from .._planner.whatif import Alternative, Alternatives
    from .._report.look import Look
    from .next import Next

__all__ = ["main"]

EXIT_ERROR = 1


# Each in a module of its name, imported when it is asked for
_APART: Final = ("compare", "doctor", "modelfile", "verify", "which")


class _Commands(click.Group):
    """Finds commands, and turns every `VramfitError` into one line on standard error and exit status 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the names of all commands, imported or not."""
        return sorted({*super().list_commands(ctx), *_APART})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command by its name."""
        if cmd_name in _APART and cmd_name not in self.commands:
            self.add_command(getattr(import_module(f"{__package__}.{cmd_name}"), cmd_name))
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except VramfitError as e:
            show_error(str(e))
            sys.exit(EXIT_ERROR)


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="vramfit")
def main() -> None:
    """Say what a GGUF model will allocate on your GPUs, and find the largest context that is still safe.

    MODEL is a GGUF file (any shard of a split one), a URL, hf.co/user/repo:Q8_0, or a model of Ollama or LM
    Studio, here or in its registry; its header is all that is read.

    \b
    vramfit plan model.gguf --gpus 3090ti,3060
    vramfit inspect model.gguf
    vramfit gpus 4090
    vramfit doctor
    vramfit which model.gguf --ctx 65536
    """


_json = click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")


@main.command(cls=Command, epilog="Exit status: 0 it fits, 3 it does not, 1 error, 2 usage.")
@several_model_options
@several_options
@cards_option
@host_option
@click.option("--margin", type=size, default="1GiB", show_default=True, help="Left free on every card.")
@click.option(
    "--max-ctx", type=tokens, default=None, metavar="N", help="Largest context. Default: the trained one."
)
@settings_options
@trade_options
@engine_options
@click.option(
    "--explain", is_flag=True, help="Show the terms of every figure, and what a compute buffer holds."
)
@picture_options
@_json
def plan(models: Choices, listed: str | None, wish: int | None, maximise: str | None, **asked: Any) -> None:
    """Find the largest context that fits, and the split of the layers that holds it; of several models, for each.

    \b
    vramfit plan model.gguf --gpus 3090ti,3060
    vramfit plan model.gguf --gpus 2x4090 -ctk q8_0 -ctv q8_0 -fa on
    vramfit plan model.gguf --gpus 24GiB --ctx 32768 --prefer quality
    vramfit plan model.gguf --gpus 4090 --host 64GiB -ncmoe 20
    vramfit plan model.gguf --gpus none --host 32GiB
    vramfit plan model.gguf --gpus 3090ti,3060 --next 4GiB
    vramfit plan model.gguf --gpus 3090ti,3060 --engine ollama --client aider
    vramfit plan coder.gguf embedder.gguf --gpus 3090ti,3060 --wish 32k
    vramfit plan --models servers.sh --gpus 3090ti,3060
    vramfit plan --gpus 3090ti,3060 -- llama-server -m model.gguf -c 32k --jinja

    Every flag of llama-server is understood; those that size nothing are listed.
    """
    if listed is not None or len(models.references) > 1:
        from .several import plan_several

        return plan_several(models, listed, wish, maximise, **asked)
    for_one_alone(wish, maximise)
    return _plan_one(chosen(models), **asked)


def _plan_one(
    model: Choice, gpus: str | None, host: str | None, margin: int, max_ctx: int | None, explain: bool, plot: str | None,
    html: str | None, engine: str | None, client: str | None, prefer: str | None, show_alternatives: bool,
    host_bandwidth: float | None, everything: bool, next_name: str | None, next_ctx: int | None, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    described, on = model.read(), cards(gpus, engine)
    options["engine_build"] = options["engine_build"] or build_here(gpus, engine)
    settings = to_settings(options, engine, described)
    memory = host_memory(host, gpus, on)
    asked = Asked(described, on, settings, engine, margin, max_ctx, host_bandwidth, memory)
    changed = asked.best(prefer) if prefer else None
    result = warned(changed.plan if changed else asked.plan())
    wanted = show_alternatives or not result.fits
    found = asked.trades(prefer, brief=not show_alternatives) if wanted else None
    beside = None
    if next_name is not None or next_ctx or show_alternatives:
        from .next import next_model

        beside = next_model(result, next_name, next_ctx, engine, model)
    write_pictures(result, plot, html, found, host_bandwidth)
    if as_json:
        _echo_json(result, asked, prefer, changed, found, beside)
    else:
        shown = look()
        _say(result, asked, changed, prefer, beside, shown)
        if found:
            _say_alternatives(found, shown, brief=not show_alternatives, everything=everything)
        if explain:
            _explain(result, asked, shown)
        show_commands(result, engine, client)
    if not result.fits:
        sys.exit(EXIT_DOES_NOT_FIT)


def _echo_json(
    result: Plan, asked: Asked, prefer: str | None, changed: Alternative | None, found: Alternatives | None,
    beside: Next | None,
) -> None:  # fmt: skip
    from .._report.alternatives import plan_json  # the text of a plan starts without it

    text = plan_json(
        result, asked.engine, prefer=prefer, changed=changed, alternatives=found, ignored=line().passed_over,
        host_bandwidth_gbs=asked.host_bandwidth, given_up=beside and beside.found,
    )  # fmt: skip
    click.echo(text)


def _say(
    result: Plan,
    asked: Asked,
    changed: Alternative | None,
    prefer: str | None,
    beside: Next | None,
    shown: Look,
) -> None:
    from .._report import plans

    click.echo(plans.plan_text(result, shown, asked.host_bandwidth))
    show_notes()
    if beside:
        click.echo("\n" + shown.paragraph(beside.sentence))
    if changed:
        _say_changes(changed, prefer or "", shown)


def _say_changes(chosen: Alternative, prefer: str, shown: Look) -> None:
    from .._report.alternatives import changed_text

    click.echo("\n" + shown.paragraph(changed_text(chosen, prefer), "strong"))


def _say_alternatives(found: Alternatives, shown: Look, **which: bool) -> None:
    from .._report.alternatives import alternatives_text

    click.echo("\n" + alternatives_text(found, shown, **which))


def _explain(result: Plan, asked: Asked, shown: Look) -> None:
    from .._estimate.explain import explain
    from .._report.alternatives import most_text
    from .._report.explained import explained_text

    click.echo("\n" + explained_text(explain(result.model, result.gpus, result.settings), shown))
    most = most_text(asked.trades(None, brief=True, any_context=True))
    click.echo("\n" + shown.paragraph(most))


@main.command()
@model_options
@_json
def inspect(model: Choice, as_json: bool) -> None:
    """Show what the header says: identity, size, context, attention, cache, tensor types.

    \b
    vramfit inspect model.gguf
    vramfit inspect hf.co/lmstudio-community/Qwen2.5-14B-Instruct-1M-GGUF:Q8_0
    vramfit inspect qwen2.5-coder:32b
    vramfit inspect model.gguf --json
    """
    from .._report import describe
    from .._report.companions import companions_text
    from .._sources.load import read

    resolved = model.resolve()
    described = read(resolved, assume=model.assume)
    click.echo(
        describe.model_json(described, resolved) if as_json else describe.model_text(described, look())
    )
    if not as_json and (found := companions_text(resolved, look())):
        click.echo(found)


@main.command()
@click.argument("name", required=False)
@click.option("--check", is_flag=True, help="Check the catalogue and report every fault at once.")
@_json
def gpus(name: str | None, check: bool, as_json: bool) -> None:
    """List the cards that vramfit knows, or show what it knows of one.

    \b
    vramfit gpus
    vramfit gpus "rtx 3090 Ti"
    """
    from .._devices import validate_catalogue
    from .._report import cards as catalogue

    if check:
        click.echo(f"{validate_catalogue()} cards, no faults")
        return
    click.echo(catalogue.gpus_json(name) if as_json else catalogue.gpus_text(name, look()))
