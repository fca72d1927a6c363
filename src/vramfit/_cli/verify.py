"""`vramfit verify`: puts an estimate beside what an engine printed or says of itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click

from .._base.errors import SettingsError, SourceError
from .._llama.params import Settings
from .cards import cards
from .models import Choice, model_options
from .options import Command, line, settings_options
from .screen import look

if TYPE_CHECKING:
    from .._verify import Verification

__all__ = ["verify"]

EXIT_DIFFERS: Final = 3
_FIELDS: Final = frozenset(f.name for f in fields(Settings))


@click.command(cls=Command, epilog="Exit status: 0 as printed or within 1 %, 3 it differs, 1 error, 2 usage.")
@partial(model_options, required=False)
@click.option("--log", "log", metavar="FILE", default=None, help="What the engine printed; - reads a pipe.")
@click.option(
    "--load",
    "number",
    type=int,
    default=0,
    metavar="N",
    help="Which load of the log. Default: the last that is whole.",
)
@click.option("--all", "everything", is_flag=True, help="Every load of the log.")
@click.option(
    "--gpus",
    default=None,
    metavar="CARDS",
    help="The cards, in the log's order. Default: as the log names them.",
)
@settings_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def verify(
    model: Choice | None, log: str | None, number: int, everything: bool, gpus: str | None, as_json: bool, **options: Any
) -> None:  # fmt: skip
    """Compare an estimate with what an engine printed when it loaded MODEL.

    Reads the logs of llama.cpp, Ollama, LM Studio, koboldcpp, ik_llama.cpp and llama-cpp-python, of any year since
    2024. Settings, build and cards are the log's; options count before it. Without MODEL the log's own dimensions
    are checked.

    \b
    vramfit verify model.gguf --log server.log
    llama-server -m model.gguf -c 32768 2>&1 | vramfit verify model.gguf --log -
    journalctl -u ollama | vramfit verify qwen3:8b --log - --all
    vramfit verify --log server.log
    """
    if log is None:
        raise click.UsageError("say what to compare with: --log FILE", click.get_current_context())
    over = _over(options)
    described = model.read() if model is not None else None
    on = None if gpus is None else cards(gpus)
    from .._report.verifications import verification_json, verification_text
    from .._verify.verify import loads_of, verify_load
    from .._verify.verify import verify as compare

    found: list[Verification]
    if everything:
        loads = list(loads_of(_text(log)))
        found = [verify_load(described, each, over, on) for each in loads]
    else:
        found = [compare(described, _text(log), over, gpus=on, load=number)]
    if as_json:
        click.echo(
            verification_json(found[0]) if not everything else f"[{','.join(map(verification_json, found))}]"
        )
    else:
        click.echo("\n\n\n".join(verification_text(f, look()) for f in found))
    if any(f.verdict in ("higher", "lower", "other model") for f in found):
        sys.exit(EXIT_DIFFERS)


def _over(options: dict[str, Any]) -> dict[str, Any]:
    """The fields that were typed."""
    given = dict(line().given)
    for name in ("engine_build", "n_outputs_max"):
        if options.get(name) is not None:
            given[name] = options[name]
    if given.get("n_ctx") == 0:
        raise SettingsError("--ctx: give a number; the log says which context was loaded")
    return {k: v for k, v in given.items() if k in _FIELDS}


def _text(log: str) -> Any:
    """What to read: a file by its name, or standard input."""
    if log != "-":
        from pathlib import Path

        return Path(log)
    if sys.stdin.isatty():
        raise SourceError("--log -: standard input is a terminal; pipe a log into it, or name a file")
    return _pieces()


def _pieces() -> Iterator[bytes]:
    """Standard input as it comes, so that a pipe that stays open shows nothing before its end."""
    while piece := sys.stdin.buffer.read(1 << 16):
        yield piece
