"""Ask a program of this machine something: what it prints, or why it said nothing. Never hangs, never raises."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final

from .._base.foreign import printable

if TYPE_CHECKING:
    import subprocess

__all__ = ["TIMEOUT_S", "Answer", "ask", "called", "imported"]

TIMEOUT_S: Final = 5.0
MAX_BYTES: Final = 1 << 20  # of what is read; a driver's tool prints a few KiB
MAX_SAID: Final = 200  # characters of an error


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program printed. `missing`: it is not installed; `failure`: why it cannot be relied on, "" where it can."""

    text: str = ""
    errors: str = ""
    missing: bool = False
    failure: str = ""


def ask(
    command: Sequence[str], *, timeout_s: float = TIMEOUT_S, environ: Mapping[str, str] | None = None
) -> Answer:
    """Run a program in the C locale with nothing on its input, and return what it prints within `timeout_s` seconds.

    `environ` replaces the environment, the path that programs are looked for on with it.

    One that hangs is killed and not waited for, even where its driver does not let it die; a program that prints
    more than 1 MiB is cut short. A status other than 0 is a `failure` whose text is kept: some tools complain and still answer.
    """
    import subprocess

    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**(os.environ if environ is None else environ), "LC_ALL": "C"}, start_new_session=True,
        )  # fmt: skip
    except (FileNotFoundError, NotADirectoryError):
        return Answer(missing=True, failure="not installed")
    except (OSError, ValueError) as e:
        return Answer(failure=f"cannot be run: {getattr(e, 'strerror', None) or e}")
    heard: tuple[list[bytes], list[bytes]] = ([], [])
    assert process.stdout is not None and process.stderr is not None  # noqa: PT018 - pipes, as asked for
    readers = [
        threading.Thread(target=_read, args=(stream, parts), daemon=True)
        for stream, parts in zip((process.stdout, process.stderr), heard, strict=True)
    ]
    for reader in readers:
        reader.start()
    failure = _end(process, readers, timeout_s)
    text, errors = (b"".join(parts).decode("utf-8", errors="replace") for parts in heard)
    return Answer(text, errors, failure=failure or _status(process.returncode, errors or text))


def _read(stream: IO[bytes], parts: list[bytes]) -> None:
    """Read a pipe to its end or to the limit; closing it there ends a program that does not stop."""
    left = MAX_BYTES
    with stream:
        while left > 0 and (part := os.read(stream.fileno(), min(left, 65536))):
            parts.append(part)
            left -= len(part)


def _end(process: subprocess.Popen[bytes], readers: Sequence[threading.Thread], timeout_s: float) -> str:
    """Wait for a program to end and for what it printed; kill it where it does not. Returns why, or ""."""
    import subprocess

    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        _kill(process)
        return f"did not answer within {timeout_s:g} s"
    for reader in readers:
        reader.join(timeout_s)  # a child of its own may hold the pipe open
    return ""


def _kill(process: subprocess.Popen[bytes]) -> None:
    import contextlib
    import signal
    import subprocess

    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:  # pragma: no cover - Windows
            process.kill()
        process.wait(0.5)


def _status(status: int | None, said: str) -> str:
    if not status:
        return ""
    first = printable(
        " ".join(next((line for line in said.splitlines() if line.strip()), "").split()), MAX_SAID
    )
    return f"exit status {status}" + (f": {first}" if first else "")


def called(function: Callable[[], Any], *, timeout_s: float = TIMEOUT_S) -> tuple[Any, str]:
    """Call into a driver's library: what it returns, or None and why it failed, as where it does not return in time.

    The library is foreign, so whatever it raises is a failure that is said.
    """
    found: list[Any] = []
    failed: list[str] = []

    def run() -> None:
        try:
            found.append(function())
        except BaseException as e:
            failed.append(printable(" ".join(str(e).split()), MAX_SAID) or type(e).__name__)

    worker = threading.Thread(target=run, daemon=True)
    worker.start()
    worker.join(timeout_s)
    if found:
        return found[0], ""
    return None, failed[0] if failed else f"did not answer within {timeout_s:g} s"


def imported(name: str) -> tuple[Any, Answer]:
    """Import a driver's module, which is an extra: the module, or None and whether it is missing or why it fails.

    Some load the driver when they are imported, and print what they think of it: that is kept from the screen.
    """
    import contextlib
    import importlib
    import io

    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return importlib.import_module(name), Answer()
    except ModuleNotFoundError:
        return None, Answer(missing=True, failure="not installed")
    except Exception as e:
        said = printable(" ".join(str(e).split()), MAX_SAID) or type(e).__name__
        return None, Answer(failure=f"cannot be loaded: {said}")
