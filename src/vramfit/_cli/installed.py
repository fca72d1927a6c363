"""Ask this machine which engine it has, and of which build: `--engine auto`, and `--gpus auto`."""

from __future__ import annotations

__all__ = ["build_here", "installed"]


def installed() -> str:
    """Name the engine that answers here and its build ("llama-server@b9527"), llama.cpp's own first; "" for none."""
    from .._engines.installed import PROGRAMS, parse_version

    found = (parse_version(program, _run(program)) for program in PROGRAMS)
    return next((name for name in found if name), "")


def build_here(gpus: str | None, engine: str | None) -> str:
    """The build of the llama-server that is installed, where the cards are this machine's and no engine was named."""
    if gpus not in (None, "auto") or engine is not None:
        return ""
    from .._engines.installed import parse_version

    return parse_version("llama-server", _run("llama-server"))


def _run(program: str) -> str:
    """What a program says of its version, on either stream; nothing where it is absent, fails or hangs."""
    from .._devices.ask import ask

    answer = ask((program, "--version"))
    return f"{answer.text}\n{answer.errors}"
