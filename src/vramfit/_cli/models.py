"""Choose the model that a command is about: its name, and how it may be looked up."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Timer
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

from .._base.errors import SettingsError
from .options import line, tokens

if TYPE_CHECKING:
    from .._llama.model import Model
    from .._sources import Resolved

__all__ = [
    "MAXIMISE",
    "Choice",
    "Choices",
    "chosen",
    "for_one_alone",
    "model_options",
    "several_model_options",
    "several_options",
]

# Flags as in llama.cpp's common/arg.cpp, then gguf-parser's, so that a command line people have can be pasted.
_OPTIONS: Final = (
    click.option("-m", "--model", "--path", "model", metavar="MODEL", hidden=True),
    click.option("-mu", "--model-url", "--url", "model_url", metavar="URL", hidden=True),
    click.option("-hf", "-hfr", "--hf-repo", "hf_repo", metavar="USER/REPO[:QUANT]", hidden=True),
    click.option("-hff", "--hf-file", "hf_file", metavar="FILE", hidden=True),
    click.option("-hft", "--hf-token", "token", metavar="TOKEN", default="", hidden=True),
    click.option("-dr", "--docker-repo", "docker_repo", metavar="[REPO/]MODEL[:TAG]", hidden=True),
    click.option("--ms-repo", "ms_repo", metavar="USER/REPO", hidden=True),
    click.option("--ms-file", "ms_file", metavar="FILE", hidden=True),
    click.option("--ol-model", "ol_model", metavar="NAME[:TAG]", hidden=True),
    click.option("--revision", metavar="NAME", default="", help="Branch, tag or commit on the Hugging Face Hub."),
    click.option("--no-cache", is_flag=True, help="Bypass the header cache: neither read it nor write to it."),
    click.option("--assume", metavar="ARCH", help="Read an unknown architecture as this one."),
)  # fmt: skip
MAXIMISE: Final = ("share", "order")  # as in `_planner.shared`, which is imported when it is asked
_LONG_SECONDS: Final = 1.0  # a wait that deserves a word

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Choice:
    """The model that was asked about."""

    reference: str
    revision: str
    token: str = field(repr=False)
    cache: bool
    assume: str | None

    def read(self, told: Mapping[str, Any] | None = None) -> Model:
        """Read its headers and describe the model, with what it comes with and what is `told` to be loaded beside it.

        None: what the flags of the command name. What cannot be counted is said on standard error.
        """
        from .._sources.load import read_loaded

        beside = line().company if told is None else told
        with _told() as progress:
            found, said = read_loaded(
                self.reference, beside, assume=self.assume, revision=self.revision, token=self.token, cache=self.cache,
                progress=progress,
            )  # fmt: skip
        for text in said:
            click.echo(f"vramfit: {text}", err=True)
        return found

    def resolve(self) -> Resolved:
        """Find where it is, its headers, and what comes with it."""
        from .._sources import resolve

        with _told() as progress:
            return resolve(
                self.reference, revision=self.revision, token=self.token, cache=self.cache, progress=progress
            )


class Choices(NamedTuple):
    """What stands where MODEL does, and how models may be looked up."""

    references: tuple[str, ...]
    how: Choice

    def one(self, reference: str, token: str = "") -> Choice:
        """Choose one model, with a token of its own where it has one."""
        return replace(self.how, reference=reference, token=token or self.how.token)


def model_options(command: Callable[..., Any], *, required: bool = True) -> Callable[..., Any]:
    """Give `command` the argument MODEL and its options; it gets them as `model`, a `Choice`, or None where it needs none."""

    @functools.wraps(command)
    def with_model(**given: Any) -> Any:
        found = _choices(given)
        if not required and not found.references:
            return command(model=None, **given)
        return command(model=chosen(found), **given)

    return _with_options(with_model, 1)


def several_model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give `command` any number of MODELs and their options; it gets them as `models`, `Choices`."""

    @functools.wraps(command)
    def with_models(**given: Any) -> Any:
        return command(models=_choices(given), **given)

    return _with_options(with_models, -1)


def several_options(command: F) -> F:
    """Add `--models`, `--wish` and `--maximise`."""
    command = click.option(
        "--maximise",
        type=click.Choice(MAXIMISE),
        default=None,
        help="Of several models: the smallest share of what each wishes, or the context of the first, then of the next. Default: share.",
    )(command)
    command = click.option(
        "--wish",
        type=_wish,
        default=None,
        metavar="N|train",
        help="Context that each of several models should get, if that can be. Default: the trained one.",
    )(command)
    return click.option(
        "--models",
        "listed",
        default=None,
        metavar="FILE",
        help="Several models, each with its settings: a script of llama-server commands, a YAML of models, the router's presets,"
        " llama-swap's config; - reads a pipe. MODELs choose among them by name.",
    )(command)


def _wish(text: str) -> int:
    """Read a number of tokens; 0 stands for the trained context."""
    return 0 if text.lower() == "train" else tokens(text)


def for_one_alone(wish: int | None, maximise: str | None) -> None:
    """Refuse what only several models have. Raises `SettingsError`."""
    if wish is not None:
        raise SettingsError(
            "--wish is of several models; for one, --ctx asks about a context and --max-ctx limits it"
        )
    if maximise is not None:
        raise SettingsError(
            f"--maximise {maximise} is of several models; name more than one, or a list with --models"
        )


def chosen(found: Choices) -> Choice:
    """Take the one model that was named. Raises `UsageError` for none."""
    if not found.references:
        raise click.UsageError("Missing argument 'MODEL'.", click.get_current_context())
    return found.one(found.references[0])


def _with_options(command: Callable[..., Any], number: int) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        command = option(command)
    metavar = "MODEL" if number == 1 else "MODEL..."
    return click.argument("argument", metavar=metavar, required=False, nargs=number)(command)


def _choices(given: dict[str, Any]) -> Choices:
    """Take the options that name models out of `given`."""
    from .._sources.named import FILES, PLACES, reference_of

    names = {name: given.pop(name) for name in (*PLACES, *FILES.values())}
    how = Choice(
        "", given.pop("revision"), given.pop("token"), not given.pop("no_cache"), given.pop("assume")
    )
    arguments = names.pop("argument")
    each = arguments if isinstance(arguments, tuple) else (arguments,)
    found = [reference_of({**names, "argument": one}) for one in each or (None,)]
    return Choices(tuple(filter(None, found)), how)


@contextmanager
def _told() -> Iterator[Callable[[str, int], None] | None]:
    """Choose what to call with progress: once the wait is long, a line on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    waiting = _Waiting()
    try:
        yield waiting
    finally:
        waiting.stop()


class _Waiting:
    """A line that says what is waited for, and how much has come."""

    def __init__(self) -> None:
        self._bytes = 0
        self._status: Any = None
        self._timer = Timer(_LONG_SECONDS, self._start)
        self._timer.daemon = True
        self._timer.start()

    def __call__(self, name: str, n_bytes: int) -> None:
        self._bytes += n_bytes
        if self._status is not None:
            self._status.update(self._text(name))

    def stop(self) -> None:
        """Take the line away."""
        self._timer.cancel()
        self._timer.join()
        if self._status is not None:
            self._status.stop()

    def _start(self) -> None:
        from rich.console import Console

        status = Console(stderr=True).status(self._text(""))
        status.start()
        self._status = status

    def _text(self, name: str) -> str:
        from rich.markup import escape

        from .._base.foreign import printable
        from .._base.units import format_bytes

        return f"Reading the header{escape(f' of {printable(name)}') if name else ''}: {format_bytes(self._bytes)}"
