"""`vramfit modelfile check`: folders and files, read here, judged in `modelfile`, mended on request."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from ..errors import SourceError, VramfitError
from .cards import cards, cards_option
from .options import EXIT_DOES_NOT_FIT, settings_options, size, to_settings, typed
from .screen import look

if TYPE_CHECKING:
    from ..modelfile import Finding

__all__ = ["modelfile"]

MAX_BYTES: Final = 64 << 20  # of a Modelfile: licences are long, models are not in it
_OLLAMA: Final = ("ollama", "ollama-before-0.30")


@click.group()
def modelfile() -> None:
    """Ollama's Modelfiles: check their contexts, and mend them.

    \b
    vramfit modelfile check Modelfile --gpus 3090ti,3060
    """


@modelfile.command(epilog="Exit status: 0 all fit, 3 one does not, 1 error, 2 usage.")
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
@click.option("--fix", "mend", is_flag=True, help="Write the largest num_ctx that fits where one does not.")
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
    """Does every num_ctx fit on the cards? Says which card is short, by how much, and what would fit.

    Of a folder, files called Modelfile, Modelfile.* or *.modelfile are read. FROM is a path, or a name as
    Ollama knows it. The server's settings are options, as in -fa on -ctk q8_0 -ctv q8_0.

    \b
    vramfit modelfile check Modelfile --gpus 3090ti,3060
    vramfit modelfile check ~/models --gpus 3090ti,3060 -fa on --fix
    """
    from ..modelfile import check as check_file
    from ..modelfile import fix, parse
    from ..report.modelfiles import findings_json, findings_text

    given = typed(to_settings(options))
    on = cards(gpus)
    found: list[Finding] = []
    errors: list[str] = []
    for path in _files(paths):
        try:
            file = parse(_read(path), name=path)
            here = check_file(
                file, os.path.dirname(path) or ".", on, engine=engine, given=given, margin_bytes=margin
            )
            found += here
            if mend and (mended := fix(here)).text != file.text:
                _write(path, mended.to_bytes())
        except VramfitError as e:
            errors.append(str(e))
    click.echo(findings_json(found, errors) if as_json else findings_text(found, look()))
    for error in errors:
        click.echo(f"vramfit: {error}", err=True)
    if errors or not all(f.fits for f in found):
        sys.exit(1 if errors else EXIT_DOES_NOT_FIT)


def _files(paths: Sequence[str]) -> Iterator[str]:
    """The files named, and the Modelfiles of the folders named, in order."""
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        for folder, folders, names in os.walk(path):
            folders.sort()
            for name in sorted(names):
                low = name.lower()
                if low == "modelfile" or low.startswith("modelfile.") or low.endswith(".modelfile"):
                    yield os.path.join(folder, name)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as e:
        raise SourceError(f"{path}: {e.strerror or e}") from None
    if len(data) > MAX_BYTES:
        raise SourceError(f"{path}: larger than {MAX_BYTES >> 20} MiB; this is no Modelfile")
    return data


def _write(path: str, data: bytes) -> None:
    """Replace the file's content at once, or leave it as it was; its permissions stay."""
    target = os.path.realpath(path)
    aside = f"{target}.vramfit"
    try:
        with open(aside, "xb") as file:
            file.write(data)
        try:
            os.chmod(aside, os.stat(target).st_mode & 0o7777)
            os.replace(aside, target)
        except OSError:
            os.unlink(aside)
            raise
    except OSError as e:
        raise SourceError(f"{path}: cannot be written: {e.strerror or e}") from None
