"""Choose the model that a command is about: its name, and how it may be looked up."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Timer
from typing import TYPE_CHECKING, Any, Final

import click

from .._base.errors import SettingsError, VramfitError
from .options import line

if TYPE_CHECKING:
    from .._llama.model import Model
    from .._sources import Resolved

__all__ = ["Choice", "model_options"]

# Flags as in llama.cpp's common/arg.cpp, then gguf-parser's, so that a command line people have can be pasted.
_OPTIONS: Final = (
    click.argument("model_argument", metavar="MODEL", required=False),
    click.option("-m", "--model", "--path", "model_option", metavar="MODEL", hidden=True),
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
_PLACES: Final = {"model_argument": "", "model_option": "", "model_url": "", "hf_repo": "hf://", "docker_repo": "docker://",
                  "ms_repo": "ms://", "ol_model": "ollama://"}  # fmt: skip
_FILES: Final = {
    "hf_repo": "hf_file",
    "ms_repo": "ms_file",
}  # the file of a repository, by an option of its own
_NAMES: Final = (*_PLACES, *_FILES.values(), "revision", "token", "no_cache", "assume")
_LONG_SECONDS: Final = 1.0  # a wait that deserves a word


@dataclass(frozen=True, slots=True)
class Choice:
    """The model that was asked about."""

    reference: str
    revision: str
    token: str = field(repr=False)
    cache: bool
    assume: str | None

    def read(self, *, alone: bool = False) -> Model:
        """Read its headers and describe the model, with what it comes with and, unless `alone`, what the flags load beside it."""
        from .._sources import reference_name, resolve
        from .._sources.load import read

        told = {} if alone else dict(line().company)
        with _told() as progress:
            options: dict[str, Any] = {"revision": self.revision, "token": self.token, "cache": self.cache}
            if self.revision or os.path.isfile(self.reference):  # nothing comes with a file
                found = read(self.reference, assume=self.assume, progress=progress, **options)
            else:
                resolved = resolve(self.reference, progress=progress, **options)
                found = replace(read(resolved, assume=self.assume), source=reference_name(self.reference))
                found = _with(found, _comes_with(resolved), told)
            if not told:
                return found
            from .._sources.company import accompany

            return accompany(found, **told)

    def resolve(self) -> Resolved:
        """Find where it is, its headers, and what comes with it."""
        from .._sources import resolve

        with _told() as progress:
            return resolve(
                self.reference, revision=self.revision, token=self.token, cache=self.cache, progress=progress
            )


def _with(model: Model, found: dict[str, Any], told: dict[str, Any]) -> Model:
    """The model with what was found beside it, unless flags name others or turn it off; what cannot be read is said."""
    found = {name: value for name, value in found.items() if name not in told}
    if told.get("mmproj_auto") is False:
        found.pop("mmproj", None)
    if not found:
        return model
    from .._sources.company import accompany

    try:
        if not told:
            return accompany(model, **found)
        accompany(model, **found)
        told.update(found)
    except VramfitError as e:
        click.echo(f"vramfit: not counted: {e}", err=True)
    return model


def _comes_with(resolved: Resolved) -> dict[str, Any]:
    """What of a model's companions is on this machine and loaded with it, as arguments of `accompany`.

    llama-server loads the projector of a repository that it fetched, Ollama that and adapters and a draft of its layers.
    """
    found: dict[str, Any] = {}
    for kind, name in (("projector", "mmproj"), ("draft", "draft")):
        first = resolved.companion(kind)
        if first is not None and first.path is not None:
            found[name] = first.path
    adapters = tuple((c.path, 1.0) for c in resolved.companions if c.kind == "adapter" and c.path is not None)
    return found | ({"lora": adapters} if adapters else {})


def model_options(command: Callable[..., Any], *, required: bool = True) -> Callable[..., Any]:
    """Give `command` the argument MODEL and its options; it gets them as `model`, a `Choice`, or None where it needs none."""

    @functools.wraps(command)
    def with_model(**given: Any) -> Any:
        mine = {name: given.pop(name) for name in _NAMES}
        if not required and not any(mine[name] for name in _PLACES):
            return command(model=None, **given)
        return command(model=_choice(**mine), **given)

    for option in reversed(_OPTIONS):
        with_model = option(with_model)
    return with_model


def _choice(revision: str, token: str, no_cache: bool, assume: str | None, **names: str | None) -> Choice:
    for repo, file in _FILES.items():
        if names[file] and not names[repo]:
            option = f"--{file.replace('_', '-')}"
            raise SettingsError(f"{option} {names[file]} needs --{repo.replace('_', '-')} USER/REPO")
        if names[file]:
            names[repo] = f"{str(names[repo]).partition(':')[0]}/{names[file]}"
    given = [f"{prefix}{names[option]}" for option, prefix in _PLACES.items() if names[option]]
    if len(given) > 1:
        from .._sources.redact import redacted

        raise SettingsError(f"two models given: {redacted(given[0])} and {redacted(given[1])}")
    if not given:
        raise click.UsageError("Missing argument 'MODEL'.", click.get_current_context())
    return Choice(given[0], revision, token, not no_cache, assume)


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
