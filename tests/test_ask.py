"""Programs that are asked: those that answer, complain, hang, flood, or are not there."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from vramfit._devices.ask import MAX_BYTES, ask, called, imported


def program(folder: Path, script: str) -> tuple[str]:
    path = folder / "tool"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return (str(path),)


def test_what_is_printed_comes_back(tmp_path: Path) -> None:
    found = ask(program(tmp_path, 'printf "caf\\303\\251 \\377 $LC_ALL"; echo no >&2; cat'))
    assert (found.text, found.errors, found.failure, found.missing) == ("café \ufffd C", "no\n", "", False)


def test_a_program_that_fails_says_why_and_keeps_its_text(tmp_path: Path) -> None:
    found = ask(program(tmp_path, 'echo half; echo; echo "No  devices\x1b were found" >&2; exit 6'))
    assert (found.text, found.failure) == ("half\n\n", "exit status 6: No devices\\x1b were found")
    assert ask(program(tmp_path, "exit 9")).failure == "exit status 9"


def test_what_cannot_be_run_is_told_from_what_is_missing(tmp_path: Path) -> None:
    assert ask((str(tmp_path / "absent"),)).missing
    (tmp_path / "data").write_text("no program")
    found = ask((str(tmp_path / "data"),))
    assert (found.missing, found.failure) == (False, "cannot be run: Permission denied")
    assert "cannot be run" in ask(("a\0b",)).failure


def test_a_program_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    started = time.monotonic()
    found = ask(program(tmp_path, f"echo $$ > {tmp_path}/pid; echo begun; sleep 60 & wait"), timeout_s=0.3)
    assert time.monotonic() - started < 5
    assert found.failure == "did not answer within 0.3 s"
    group = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise AssertionError("a child was left behind")


def test_a_child_that_holds_the_pipe_is_not_waited_for(tmp_path: Path) -> None:
    started = time.monotonic()
    found = ask(program(tmp_path, "echo told; sleep 3 & exit 0"), timeout_s=0.3)
    assert time.monotonic() - started < 2
    assert (found.text, found.failure) == ("told\n", "")


def test_a_program_that_does_not_stop_printing_is_cut_short(tmp_path: Path) -> None:
    found = ask(program(tmp_path, "yes"), timeout_s=5)
    assert len(found.text) == MAX_BYTES
    assert found.failure.startswith("exit status")


def test_a_library_is_given_its_time_and_no_more() -> None:
    assert called(lambda: 7) == (7, "")
    assert called(lambda: 1 / 0)[1] == "division by zero"
    assert called(lambda: sys.exit())[1] == "SystemExit"
    assert called(lambda: time.sleep(1), timeout_s=0.05) == (None, "did not answer within 0.05 s")


def test_a_module_that_prints_and_fails_is_kept_from_the_screen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """amdsmi prints that it finds no library and raises what it likes."""
    (tmp_path / "noisy_driver.py").write_text("print('no library')\nraise KeyError('ROCM')\n")
    monkeypatch.syspath_prepend(tmp_path)
    module, answer = imported("noisy_driver")
    assert (module, answer.missing, answer.failure) == (None, False, "cannot be loaded: 'ROCM'")
    assert capsys.readouterr() == ("", "")
    assert imported("no_such_driver")[1].missing
    assert imported("json")[0].dumps(1) == "1"
