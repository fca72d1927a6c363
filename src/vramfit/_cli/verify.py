"""`vramfit verify`: puts an estimate beside what an engine printed or says of itself."""

from __future__ import annotations

import re
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
from .options import Command, line, settings_options, to_settings
from .screen import look

if TYPE_CHECKING:
    from .._live import Running
    from .._llama.model import Model
    from .._verify import Verification

__all__ = ["verify"]

EXIT_DIFFERS: Final = 3
DEFAULT_CTX: Final = 4096  # of an engine that is started and told none
_ADDRESS: Final = re.compile(r"https?://|[\w.\-]+:\d{1,5}$|\[")
_FIELDS: Final = frozenset(f.name for f in fields(Settings))


@click.command(cls=Command, epilog="Exit status: 0 as printed or within 1 %, 3 it differs, 1 error, 2 usage.")
@partial(model_options, required=False)
@click.option("--log", "log", metavar="FILE", default=None, help="What the engine printed; - reads a pipe.")
@click.option(
    "--against",
    metavar="ENGINE",
    default=None,
    help="An engine at hand: llama-server, llama-fit-params or llama-cpp-python, which are started; ollama, or the address of"
    " a server that runs.",
)
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
@click.option(
    "--report",
    "report",
    type=click.Path(dir_okay=False, writable=True),
    default=None,
    metavar="FILE",
    help="Write what shows the difference: dimensions, settings and figures; no names and no paths.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def verify(
    model: Choice | None, log: str | None, against: str | None, number: int, everything: bool, gpus: str | None, report: str | None,
    as_json: bool, **options: Any
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
    vramfit verify model.gguf --against llama-server -c 32768 -fa on
    vramfit verify qwen3:8b --against ollama --gpus 3090
    """
    if log is None and against is None:
        raise click.UsageError(
            "say what to compare with: --log FILE or --against ENGINE", click.get_current_context()
        )
    described = model.read() if model is not None else None
    if against is not None:
        found = _against(against, log, described, gpus, options)
    else:
        found = _of_log(str(log), described, gpus, _over(options), number, everything)
    if report is not None:
        _write(report, found[-1])
    _show(found, as_json, everything)


def _write(file: str, found: Verification) -> None:
    from .._verify.report import report_text

    text = report_text(found)
    try:
        with open(file, "w", encoding="utf-8") as out:
            out.write(text)
    except OSError as e:
        raise SourceError(f"--report {file}: cannot be written: {e.strerror or e}") from None
    click.echo(
        f"{file} holds the figures, the settings and the header's dimensions; no names and no paths.",
        err=True,
    )


def _of_log(
    log: str, model: Model | None, gpus: str | None, over: dict[str, Any], number: int, everything: bool
) -> list[Verification]:
    """Compare one load of a log, or all."""
    from .._verify.verify import loads_of, verify_load
    from .._verify.verify import verify as compare

    on = None if gpus is None else cards(gpus)
    if everything:
        return [verify_load(model, each, over, on) for each in loads_of(_text(log))]
    return [compare(model, _text(log), over, gpus=on, load=number)]


def _against(
    engine: str, log: str | None, model: Model | None, gpus: str | None, options: dict[str, Any]
) -> list[Verification]:
    """Ask an engine at hand."""
    from .._live import OLLAMA, PROGRAMS, running_at

    if model is None:
        raise click.UsageError("--against needs MODEL", click.get_current_context())
    if engine in PROGRAMS:
        return [_started(engine, model, options)]
    if engine != "ollama" and not _ADDRESS.match(engine):
        raise SettingsError(
            f"--against {engine!r}: give one of {', '.join((*PROGRAMS, 'ollama'))}, or an address such as http://127.0.0.1:8080"
        )
    running = running_at(OLLAMA if engine == "ollama" else engine)
    if not running:
        raise SourceError("Ollama has no model loaded; run one, then ask again")
    if log is not None:
        return _of_log(log, model, gpus, {**_of_server(running[0]), **_over(options)}, 0, everything=False)
    from .._verify.running import verify_running

    on, over = cards(gpus), _over(options)
    given = [{**_of_server(r), **over} for r in running]
    builds = [given_.pop("engine_build", "") or r.build for given_, r in zip(given, running, strict=True)]
    return [
        verify_running(model, on, r.program, build, each, r.size_vram, r.size)
        for r, each, build in zip(running, given, builds, strict=True)
    ]


def _of_server(running: Running) -> dict[str, Any]:
    """What a server says of its settings; its slots have one cache unless they are told a number."""
    found: dict[str, Any] = {}
    if running.n_ctx:
        found["n_ctx"] = running.n_ctx
    if running.program == "llama-server" and running.slots:
        found |= {"n_seq_max": running.slots, "kv_unified": True}
    return found | ({"engine_build": running.build} if running.build else {})


def _started(program: str, model: Model, options: dict[str, Any]) -> Verification:
    """Start an engine on the model's file, and compare what it prints."""
    from dataclasses import asdict, replace
    from pathlib import Path

    from .._engines.server import arguments
    from .._live import printed_by
    from .._verify.verify import verify as compare

    settings = to_settings(options, model=model)
    if program != "llama-server":
        settings = replace(
            settings, kv_unified=False, n_outputs_max=0, n_seq_max=line().given.get("n_seq_max", 1)
        )
    if not settings.n_ctx:
        settings = replace(settings, n_ctx=DEFAULT_CTX)
    path = Path(model.source)
    if not path.is_file():
        raise SourceError(f"{model.source}: --against {program} needs a file on this machine")
    over = {
        k: v for k, v in asdict(settings).items() if k not in ("defaults", "tensor_split", "engine_build")
    }
    over |= {
        name: getattr(settings, name) for name in ("tensor_split", "engine_build") if getattr(settings, name)
    }
    return compare(model, printed_by(program, str(path), settings, arguments(settings)), over)


def _show(found: list[Verification], as_json: bool, everything: bool) -> None:
    from .._report.verifications import verification_json, verification_text

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
