"""The documents run: every python block, every console block, every command's help.

A page that lies fails here. `...` in an expected output stands for anything, as in doctest.
Blocks of other languages are text. A page's python blocks share one namespace.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import vramfit
from vramfit._cli import main

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> Iterator[str]:
    return (body for kind, body in FENCE.findall(page.read_text()) if kind == language)


def sessions(body: str) -> Iterator[tuple[str, str]]:
    """Each `$ command` of a console block with the output that follows it."""
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        n = 1
        while lines[n - 1].endswith("\\"):
            n += 1
        yield "\n".join(lines[:n]).replace("\\\n", ""), "\n".join(lines[n:])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_blocks_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page shows in Python does what it shows."""
    monkeypatch.chdir(ROOT)
    namespace: dict[str, object] = {"__name__": page.stem}
    for i, body in enumerate(blocks(page, "python")):
        if ">>>" in body:
            parsed = doctest.DocTestParser().get_doctest(body, namespace, f"{page.name}[{i}]", str(page), 0)
            result = doctest.DocTestRunner(optionflags=FLAGS).run(parsed, clear_globs=False)
            assert not result.failed
            namespace |= parsed.globs
        else:
            exec(compile(body, f"{page.name}[{i}]", "exec"), namespace)


PLAIN = {"COLUMNS": "", "FORCE_COLOR": ""}
SHELL = re.compile(r"[|&;<>$`(]")  # what needs a shell


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_console_blocks_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page shows of the command line is what the command line prints, asked in this process."""
    monkeypatch.chdir(ROOT)
    for body in blocks(page, "console"):
        for command, expected in sessions(body):
            if command.startswith("vramfit ") and not SHELL.search(command):
                done = CliRunner().invoke(main, shlex.split(command)[1:], env=PLAIN)
                assert done.exit_code in (0, 3), f"{page.name}: {command}\nprinted:\n{done.output}"
                assert doctest.OutputChecker().check_output(expected, done.output, FLAGS), (
                    f"{page.name}: {command}\nprinted:\n{done.output}"
                )


@pytest.mark.oracle
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_console_blocks_run_in_a_shell(page: Path) -> None:
    """What a page shows of the command line is what a shell prints."""
    bin_dir = Path(sys.executable).parent
    env = {
        **os.environ,
        "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
        **PLAIN,
    }
    for body in blocks(page, "console"):
        for command, expected in sessions(body):
            if not expected.strip() and not command.startswith("vramfit"):
                continue  # set-up commands: the test command itself is one of them
            done = subprocess.run(
                ["bash", "-c", command], cwd=ROOT, env=env, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, check=False,
            )  # fmt: skip
            assert doctest.OutputChecker().check_output(expected, done.stdout, FLAGS), (
                f"{page.name}: {command}\nprinted:\n{done.stdout}"
            )


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """A relative link names a file that is there."""
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_command_is_in_the_documents() -> None:
    """A command nobody wrote about is not finished."""
    text = "\n".join(page.read_text() for page in PAGES)
    for name in main.list_commands(click.Context(main)):
        assert f"vramfit {name}" in text, name


def test_the_api_page_lists_every_public_name() -> None:
    """Each name has one row, and no row names what is not there."""
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/reference/api.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(vramfit.__all__)


def test_the_index_lists_every_page() -> None:
    """A page that no index leads to is not found."""
    index = ROOT / "docs/README.md"
    listed = {(index.parent / target).resolve() for target in LINK.findall(index.read_text())}
    assert listed == set((ROOT / "docs").rglob("*.md")) - {index}


def test_help_examples_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples in the help texts are accepted by the commands they belong to."""
    everything = click.Context(main)
    for name in main.list_commands(everything):
        command = main.get_command(everything, name)
        assert command is not None
        for line in re.findall(rf"^\s*vramfit {name}\b(.*)$", command.help or "", re.MULTILINE):
            if not isinstance(command, type(main)):
                assert command.make_context(name, shlex.split(line)) is not None
