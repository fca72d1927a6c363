"""Ask this machine which engine it has, and of which build: `--engine auto`, and `--gpus auto`."""

from __future__ import annotations

import re
from typing import Final

from .._base.errors import SettingsError
from .._llama.eras import era_of

__all__ = ["build_here", "installed", "parse_version"]

TIMEOUT_S: Final = 5.0
# llama.cpp prints "version: 9527 (9c955c48b)", Ollama "ollama version is 0.24.0", and a line more where no server runs.
_ASKED: Final = (
    ("llama-server", re.compile(r"^version: (\d{3,6}) \(", re.MULTILINE), "llama-server@b{}"),
    ("ollama", re.compile(r"version is (\d+(?:\.\d+){1,3})"), "ollama@{}"),
)


def installed() -> str:
    """Name the engine that answers here and its build ("llama-server@b9527"), llama.cpp's own first; "" for none."""
    found = (parse_version(program, _run(program)) for program, *_ in _ASKED)
    return next((name for name in found if name), "")


def build_here(gpus: str | None, engine: str | None) -> str:
    """The build of the llama-server that is installed, where the cards are this machine's and no engine was named."""
    if gpus not in (None, "auto") or engine is not None:
        return ""
    return parse_version("llama-server", _run("llama-server"))


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


def _run(program: str) -> str:
    """What a program says of its version, on either stream; nothing where it is absent, fails or hangs."""
    import subprocess

    try:
        done = subprocess.run(
            (program, "--version"), capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
            encoding="utf-8", errors="replace", stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return f"{done.stdout}\n{done.stderr}"
