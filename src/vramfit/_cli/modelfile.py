"""`vramfit modelfile check`: reads folders and files, judges them with `_modelfile`, mends them on request."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click

from .._base.errors import SettingsError, SourceError, VramfitError
from .cards import cards, cards_option
from .options import EXIT_DOES_NOT_FIT, Command, line, settings_options, show_notes, size
from .screen import look

if TYPE_CHECKING:
    from .._devices import Gpu
    from .._modelfile import Finding, Modelfile
    from .._report.modelfiles import Written

__all__ = ["modelfile"]

EXIT_NOTHING_JUDGED: Final = 4
_OLLAMA: Final = ("ollama", "ollama-before-0.30")


@click.group()
def modelfile() -> None:
    """Check the contexts of Ollama's Modelfiles, and mend them.

    \b
    vramfit modelfile check Modelfile --gpus 3090ti,3060
    """


@modelfile.command(
    cls=Command,
    epilog="Exit status: 0 all fit, 3 one does not, 1 error, 2 usage, 4 nothing to judge in a folder.",
)
@click.argument("paths", nargs=-1, required=True, metavar="DIR_OR_FILES...")
@cards_option
@click.option(
    "--engine",
    type=click.Choice(_OLLAMA),
    default="ollama",
    show_default=True,
    help="Which Ollama runs them.",
)
@click.option("--margin", type=size, default="1GiB", show_default=True, help="Left free on every card.")
@click.option(
    "--fix",
    "mend",
    is_flag=True,
    help="Write the largest num_ctx that fits where one does not; Modelfile~ keeps what was there.",
)
@settings_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def check(
    paths: Sequence[str],
    gpus: str | None,
    engine: str,
    margin: int,
    mend: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Check every num_ctx against the cards: which card is short, by how much, and what would fit.

    In a folder, checks files named Modelfile, Modelfile.* or *.modelfile. FROM is a path, or a name as
    Ollama knows it. The server's settings are options, as in -fa on -ctk q8_0 -ctv q8_0.

    \b
    vramfit modelfile check Modelfile --gpus 3090ti,3060
    vramfit modelfile check ~/models --gpus 3090ti,3060 -fa on --fix
    """
    given = line().given
    if options.pop("n_outputs_max") is not None:
        raise SettingsError("--outputs: Ollama sets this itself; leave the option out")
    result = _Checked([], [], [])
    judge = partial(_judge, on=cards(gpus, engine), engine=engine, given=given, margin_bytes=margin)
    for path in _each(paths, result.errors):
        try:
            _check_one(path, result, judge, mend=mend)
        except VramfitError as e:
            result.errors.append(str(e))
    nothing = not result.found and any(map(os.path.isdir, paths))
    if nothing:
        result.errors.append("nothing was judged: no context could be read in what was named")
    _show(result, as_json)
    if nothing:
        sys.exit(EXIT_NOTHING_JUDGED)
    if result.errors or not all(f.fits for f in result.found):
        sys.exit(1 if result.errors else EXIT_DOES_NOT_FIT)


@dataclass(slots=True)
class _Checked:
    """Collects what comes of the files."""

    found: list[Finding]
    written: list[Written]
    errors: list[str]


def _judge(file: Modelfile, path: str, *, on: Sequence[Gpu], **how: Any) -> tuple[Finding, ...]:
    """Judge each context of one Modelfile; names in it are looked up from its own folder."""
    from .._modelfile import check

    return check(file, os.path.dirname(path) or ".", on, **how)


def _check_one(path: str, result: _Checked, judge: Callable[..., tuple[Finding, ...]], *, mend: bool) -> None:
    """Read and judge one Modelfile, and with `mend` write it anew where a context does not fit."""
    from .._modelfile import fix, parse_modelfile
    from . import files

    file = parse_modelfile(files.read(path), name=path)
    found = judge(file, path)
    result.found.extend(found)
    if mend and (mended := fix(found)).text != file.text:
        result.written.append((mended, found, files.replace(path, mended.to_bytes())))


def _show(result: _Checked, as_json: bool) -> None:
    """Print the findings on standard output and the errors on standard error."""
    from .._report.modelfiles import findings_json, findings_text, written_text

    if as_json:
        click.echo(findings_json(result.found, result.errors, result.written))
    elif result.found:
        texts = (findings_text(result.found, look()), written_text(result.written))
        click.echo("\n\n".join(filter(None, texts)))
    if not as_json:
        show_notes(warnings=True)
    for error in result.errors:
        click.echo(f"vramfit: {error}", err=True)


def _each(paths: Sequence[str], errors: list[str]) -> Iterator[str]:
    """List the files named, and the Modelfiles of the folders named; a folder without one is an error."""
    from . import files

    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        try:
            inside = list(files.find(path))
        except SourceError as e:
            errors.append(str(e))
            continue
        if not inside:
            errors.append(
                f"{path}: no Modelfile in it; only files named Modelfile, Modelfile.* or *.modelfile are read"
            )
        yield from inside
