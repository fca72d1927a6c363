"""Plan for several models that share the cards: `vramfit plan A B C`, `--models`, `--wish`, `--maximise`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from .._base.errors import SettingsError, SourceError
from .._base.foreign import printable
from .._llama.flags import Line
from .cards import cards, host_memory
from .installed import build_here
from .models import MAXIMISE, Choices
from .options import EXIT_DOES_NOT_FIT, SERVER, line, size, warned, with_outputs
from .pictures import write_pictures
from .screen import look

if TYPE_CHECKING:
    from .._devices import Gpu, Host
    from .._engines.lists import Listed, Listing
    from .._planner.shared import SharedPlan, Tenant
    from .._report.look import Look

__all__ = ["plan_several"]

# What is for one model, and what to do instead.
_FOR_ONE: Final = {
    "prefer": "changes the settings of one model; plan it alone on what the others leave",
    "show_alternatives": "changes the settings of one model; plan it alone on what the others leave",
    "everything": "lists the changes to one model's settings; leave it out",
    "next_name": "is of one model; name the next one beside the others, or read what they leave in the answer",
    "next_ctx": "is of one model; name the next one beside the others",
    "client": "writes what a client is told of one model; plan it alone, with --ctx as found here",
}


_FLAGS: Final = {
    "show_alternatives": "--alternatives",
    "everything": "--all",
    "next_name": "--next",
    "next_ctx": "--next-ctx",
}


class _Asked(NamedTuple):
    """What the command was asked, of all models."""

    gpus: tuple[Gpu, ...]
    host: Host | None
    margin: int
    objective: str
    engine: str | None
    max_ctx: int | None
    outputs: int | None


def plan_several(
    models: Choices, file: str | None, wish: int | None, maximise: str | None, *, gpus: str | None, host: str | None,
    margin: int, max_ctx: int | None, explain: bool, plot: str | None, html: str | None, engine: str | None,
    host_bandwidth: float | None, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Plan for all models that were named, print what was found, and exit with 3 where they do not fit together."""
    _refuse(models, options)
    told = _listed(models, file)
    said = list[str]()
    gpus = _over("gpus", gpus, told.gpus, said)
    host = _over("host", host, told.host, said)
    objective = _over("maximise", maximise, told.maximise, said) or MAXIMISE[0]
    margin = _margin(margin, told.margin, said)
    build = options["engine_build"] or build_here(gpus, engine)
    listed, contradicted = _typed_over(told.models, wish, build, max_ctx, objective)
    on = cards(gpus, engine)
    asked = _Asked(
        on, host_memory(host, gpus, on), margin, objective, engine, max_ctx, options["n_outputs_max"]
    )
    result = _solved([_tenant(one, models, asked) for one in listed], asked)
    plans = tuple(warned(p, one.line) for p, one in zip(result.plans, listed, strict=True))
    result = replace(result, plans=plans, warnings=(*said, *contradicted, *result.warnings))
    write_pictures(result, plot, html, host_bandwidth_gbs=host_bandwidth)
    passed = _passed_over(listed, told.notes)
    if as_json:
        _echo_json(result, passed, host_bandwidth)
    else:
        _say(result, passed, host_bandwidth, engine, explain=explain)
    if not result.fits:
        sys.exit(EXIT_DOES_NOT_FIT)


def _refuse(models: Choices, options: dict[str, Any]) -> None:
    """Refuse what cannot be meant with several models. Raises `SettingsError`, which says what to do instead."""
    for name, why in _FOR_ONE.items():
        if options[name]:
            flag = _FLAGS.get(name, f"--{name}")
            raise SettingsError(f"{flag} {why}")
    if models.how.assume:
        raise SettingsError(
            f"--assume {models.how.assume} is of one model; plan it alone on what the others leave"
        )


def _listed(models: Choices, file: str | None) -> Listing:
    """The models that were named: references, or a list, of which names choose."""
    from .._engines.lists import MAX_BYTES, Listed, Listing, read_list
    from .._engines.tenants import list_in_file
    from .._planner.shared.nouns import MAX_TENANTS
    from .._sources.redact import redacted

    if file is None:
        if len(models.references) > MAX_TENANTS:
            raise SettingsError(f"{len(models.references)} models: give 1 to {MAX_TENANTS}")
        return Listing(tuple(Listed("", one, Line(), where=redacted(one)) for one in models.references))
    if file != "-":
        return list_in_file(file, models.references)
    if sys.stdin.isatty():
        raise SourceError("--models -: standard input is a terminal; pipe a list into it, or name a file")
    return read_list(sys.stdin.buffer.read(MAX_BYTES + 1), "<standard input>", models.references)


def _over(option: str, typed: str | None, listed: str, said: list[str]) -> str | None:
    """Choose what was typed, else what the list says; say where they differ."""
    if typed and listed and typed != listed:
        said.append(f"--{option} {typed} of the command line, not {option}: {listed} of the list")
    return typed or listed or None


def _margin(typed: int, listed: str, said: list[str]) -> int:
    """Choose the margin, which has a default where it was not typed."""
    if not listed:
        return typed
    try:
        margin = size(listed)
    except click.BadParameter as e:
        raise SettingsError(f"margin of the list: {e.message}") from None
    source = click.get_current_context().get_parameter_source("margin")
    if source is not click.core.ParameterSource.COMMANDLINE:
        return margin
    if margin != typed:
        said.append(f"--margin of the command line, not margin: {listed} of the list")
    return typed


def _typed_over(
    models: Sequence[Listed], wish: int | None, build: str, max_ctx: int | None, objective: str
) -> tuple[list[Listed], list[str]]:
    """Put what was typed over each model; the second value says what of the list that contradicts. Raises `SettingsError`."""
    from .._engines.lists.over import check_weights, limited, named_apart, over

    typed = line()
    if wish is not None and "n_ctx" in typed.given:
        raise SettingsError(
            "--ctx fixes the context of every model, and --wish asks for another; give one of the two"
        )
    if build:
        typed = typed._replace(given={**typed.given, "engine_build": build})
    found: list[Listed] = []
    said: list[str] = []
    for one in named_apart(models):
        changed, what = over(one, typed, wish)
        limited(changed, max_ctx)
        found.append(changed)
        said += what
    check_weights(found, objective)
    return found, said


def _tenant(one: Listed, models: Choices, asked: _Asked) -> Tenant:
    """Read a model with what is loaded beside it, and make a tenant of it."""
    from .._engines.lists.nouns import placed
    from .._engines.tenants import tenant_of

    with placed(one.where):
        model = models.one(one.reference, one.token).read(one.line.company)
        tenant = tenant_of(one, model, asked.engine or SERVER)
    settings = with_outputs(tenant.settings, asked.outputs, asked.engine)
    tenant = replace(tenant, settings=settings)
    if asked.max_ctx is None or settings.n_ctx or 0 < tenant.wished <= asked.max_ctx:
        return tenant
    return replace(tenant, wish=asked.max_ctx)


def _solved(tenants: list[Tenant], asked: _Asked) -> SharedPlan:
    """Plan: for the engine where one was named, else with the settings as they are."""
    how: dict[str, Any] = {"margin_bytes": asked.margin, "host": asked.host, "objective": asked.objective}
    if asked.engine is None:
        from .._planner.shared import plan_shared

        return plan_shared(tenants, asked.gpus, **how)
    from .._engines.shared import shared_for

    return shared_for(tenants, asked.gpus, asked.engine, **how)


def _passed_over(models: Sequence[Listed], notes: Sequence[str]) -> tuple[Line, tuple[str, ...]]:
    """The flags of all models that were passed over, each once, and the lines of a script."""
    from .._engines.lists.over import both

    return both([one.line for one in models]), (*notes,)


def _echo_json(
    result: SharedPlan, passed: tuple[Line, tuple[str, ...]], host_bandwidth_gbs: float | None
) -> None:
    from .._base.foreign import json_text
    from .._report.shared import shared_as_schema

    found = shared_as_schema(result, host_bandwidth_gbs).model_dump()
    click.echo(json_text(found | {"ignored": [*passed[0].passed_over]}))


def _say(
    result: SharedPlan, passed: tuple[Line, tuple[str, ...]], host_bandwidth_gbs: float | None, engine: str | None,
    *, explain: bool,
) -> None:  # fmt: skip
    from .._report.shared import shared_text

    shown = look()
    run = _commands(result, engine) if engine is not None and result.loaded else ""  # may be refused
    click.echo(shared_text(result, shown, host_bandwidth_gbs))
    if said := [*passed[0].notes, *passed[1]]:
        click.echo("\n" + "\n".join(said))
    if explain:
        _explain(result, shown)
    if run:
        click.echo(f"\n{run}")


def _commands(result: SharedPlan, engine: str) -> str:
    """Write what to run in the engine, and the Modelfiles that Ollama takes."""
    found = [f"Run:\n\n{result.command(engine)}"]
    if engine.startswith("ollama"):
        found += [f"{printable(name)}:\n\n{text.rstrip()}" for name, text in result.files(engine).items()]
    return "\n\n".join(found)


def _explain(result: SharedPlan, shown: Look) -> None:
    """Show the terms of each model that is loaded."""
    from .._estimate.explain import explain
    from .._report.explained import explained_text

    for t in result.loaded:
        own = result.plans[t]
        title = shown.paragraph(printable(result.tenants[t].name), "strong")
        click.echo(f"\n{title}\n\n" + explained_text(explain(own.model, own.gpus, own.settings), shown))
