"""Which engines this machine has, of which build, and by which rules they are counted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from .._base.errors import SettingsError
from .._base.foreign import printable
from .._devices.detect import Here
from .._llama.eras import era_of

__all__ = ["PROGRAMS", "Installed", "installed_engines", "parse_version"]

# llama.cpp prints "version: 9527 (9c955c48b)", Ollama "ollama version is 0.24.0", and a line more where no server runs.
_ASKED: Final = (
    ("llama-server", re.compile(r"^version: (\d{3,6}) \(", re.MULTILINE), "llama-server@b{}"),
    ("ollama", re.compile(r"version is (\d+(?:\.\d+){1,3})"), "ollama@{}"),
)
PROGRAMS: Final = tuple(program for program, *_ in _ASKED)
BINDING: Final = "llama-cpp-python"


@dataclass(frozen=True, slots=True)
class Installed:
    """An engine of this machine: what it says of its version, the build to count for, and the era of that.

    `build` and `era` are "" where the version says no build that can be counted for; `failure` says why then.
    """

    program: str
    version: str = ""
    build: str = ""
    era: str = ""
    failure: str = ""


def installed_engines(here: Here | None = None) -> tuple[Installed, ...]:
    """Ask every program of the path that can be counted for, and this Python for llama-cpp-python. Never raises."""
    here, found = here or Here(), []
    for program in PROGRAMS:
        answer = here.ask(program, "--version")
        if not answer.missing:
            found.append(_engine(program, f"{answer.text}\n{answer.errors}", answer.failure))
    version = _binding()
    return (*found, _known(BINDING, version, f"{BINDING}@{version}")) if version else tuple(found)


def _engine(program: str, text: str, failure: str) -> Installed:
    build = parse_version(program, text)
    pattern = next(p for name, p, _ in _ASKED if name == program)
    line = next((x for x in text.splitlines() if pattern.search(x) or "version" in x), "")
    said = printable(" ".join(line.split()), 100)
    if build:
        return _known(program, said, build)
    why = failure or "its version names no build that is known"
    return Installed(program, said, failure=why)


def _known(program: str, version: str, build: str) -> Installed:
    try:
        return Installed(program, version, build, era_of(build).title)
    except SettingsError as e:
        return Installed(program, version, failure=str(e))


def _binding() -> str:
    """The version of llama-cpp-python beside this package, "" where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("llama_cpp_python")
    except PackageNotFoundError:
        return ""


def parse_version(program: str, text: str) -> str:
    """Read what `program --version` prints; "" where it says no build that can be counted for."""
    for name, pattern, form in _ASKED:
        match = pattern.search(text) if name == program else None
        if match:
            build = form.format(match[1])
            try:
                era_of(build)
            except SettingsError:
                return ""
            return build
    return ""
