"""Text fits the screen, says nothing less for it, and is coloured where a person looks and nowhere else."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu

from vramfit._llama.params import Settings
from vramfit._planner.compare import compare
from vramfit._planner.plan import plan
from vramfit._report.comparisons import comparison_text
from vramfit._report.look import PLAIN, STYLES, Look, Marked, cell_len
from vramfit._report.plans import plan_text
from vramfit._report.tables import render_facts, render_table

WORDS = st.lists(
    st.sampled_from(["a", "context", "九州", "-ctk", "GeForce", "≤", "0.0010"]), max_size=12
).map(" ".join)
CELLS = st.sampled_from(["", "1", "22,586", "94,720 → 160,256", "-2,338"])
MARKS = st.sampled_from(["", *STYLES])
PAINT = re.compile(r"\x1b\[[\d;]*m")
ON = Settings(flash_attn="on", n_outputs_max=1)


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of `render_table`."""
    n = draw(st.integers(1, 6))
    head = draw(st.lists(WORDS.filter(bool), min_size=n, max_size=n, unique=True))
    left = draw(st.integers(0, n))
    last_left = draw(st.booleans())
    row = [WORDS if i < left or (last_left and i == n - 1) else CELLS for i in range(n)]
    cells = st.tuples(*(st.builds(Marked, cell, MARKS) for cell in row))
    drop = draw(st.lists(st.sampled_from(head), unique=True, max_size=n - 1))
    return {
        "head": head,
        "rows": draw(st.lists(cells, max_size=4)),
        "left": left,
        "last_left": last_left,
        "drop": drop,
    }


def squeezed(text: str) -> str:
    return "".join(PAINT.sub("", text).split())


@given(tables(), st.integers(20, 120))
def test_tables_fit_the_screen(table: dict[str, Any], width: int) -> None:
    """No line is wider than the screen, and every cell is there, but of columns that are said to be left out."""
    text = render_table(**table, look=Look(width))
    assert all(cell_len(line) <= width for line in text.splitlines())
    last = text.rpartition("Left out at this width: ")[2].rstrip(".") if "Left out" in text else ""
    gone = [name for name in table["drop"] if squeezed(name) in squeezed(last)]
    wide = render_table(**table)
    if all(cell_len(line) <= width for line in wide.splitlines()):
        assert text == wide
    for row in table["rows"]:
        for name, cell in zip(table["head"], row, strict=True):
            assert name in gone or all(word in text for word in cell.split())


@given(tables(), st.none() | st.integers(20, 120))
def test_colour_changes_nothing_but_colour(table: dict[str, Any], width: int | None) -> None:
    """Without its escapes a coloured table is the plain one; a plain one has none."""
    plain = render_table(**table, look=Look(width))
    assert "\x1b" not in plain
    painted = render_table(**table, look=Look(width, color=True))
    lines = zip(PAINT.sub("", painted).split("\n"), plain.split("\n"), strict=True)
    assert all(a.rstrip() == b.rstrip() for a, b in lines)


@given(WORDS, st.integers(20, 60), st.integers(0, 30), MARKS)
def test_paragraphs_wrap_between_words(text: str, width: int, indent: int, mark: Any) -> None:
    """Lines fit, words stay whole and in order, and what is wrapped is indented."""
    shown = Look(width).paragraph(Marked(text, mark), indent=indent)
    first, *rest = shown.splitlines() or [""]
    assert all(cell_len(line) <= width for line in (first, *rest))
    assert shown.split() == text.split()
    assert all(line.startswith(" " * min(indent, width // 2)) for line in rest)
    assert PLAIN.paragraph(text) == text


def test_a_table_gives_way_in_order() -> None:
    """First the gaps, then columns, then words, and rows become blocks when nothing else will do."""
    table: Any = {
        "head": ["card", "MiB", "note"],
        "rows": [["A" * 12 + " " + "B" * 24, "1,024", "9"]],
        "drop": ["note"],
    }
    assert render_table(**table, look=Look(52)) == render_table(**table)
    assert "    MiB  note" in render_table(**table, look=Look(50))
    assert render_table(**table, look=Look(44)).endswith("Left out at this width: note.")
    assert "\nBBBBBBBBBBBBBBBBBBBBBBBB" in render_table(**table, look=Look(40))
    assert "\n  MiB   1,024\n  note      9" in render_table(**table, look=Look(20))
    assert render_facts([("name", "a b c"), ("n", "d")], Look(9)) == "name  a b\n    c\nn     d"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_results_fit_the_usual_screens(width: int) -> None:
    """A plan and a comparison are no wider than the screen; a card has its own block where columns are too many."""
    cards = [gpu(3000, name=f"GeForce RTX 3060 12GB #{i}") for i in range(3)]
    model = dense(4, n_vocab=1 << 18, n_ctx_train=1 << 16)
    look = Look(width)
    found = plan(model, cards, ON)
    for text in (plan_text(found, look), comparison_text(compare(model, cards, ON), look)):
        assert max(map(cell_len, text.splitlines())) <= width
    lines = plan_text(found, look).splitlines()
    alone = [line for line in lines if line in {card.name for card in cards}]
    assert len(alone) == (3 if width == 40 else 0)


def test_what_matters_is_marked() -> None:
    """The verdict comes first and in its colour; a negative rest is marked, a card with its margin is not."""
    look = Look(color=True)
    good = plan_text(plan(dense(), [gpu()], ON, max_ctx=1024), look)
    bad = plan_text(plan(dense(), [gpu(8)], ON), look)
    assert good.startswith("\x1b[1;32mContext 1,024 tokens")
    assert bad.startswith("\x1b[1;31mContext 256 tokens does not fit")
    assert re.search(r"left +\x1b\[1;31m +-", bad)
    assert "\x1b[1;31m" not in good
    assert "\x1b[33mWarning: " in plan_text(plan(dense(), [gpu()], ON, margin_bytes=0), look)


GPUS = [sys.executable, "-m", "vramfit", "gpus"]


def on_a_terminal(command: list[str], width: int, **env: str) -> str:
    """What a command prints on a terminal of that width."""
    known = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    child, fd = pty.fork()
    if not child:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
        os.execve(command[0], command, {**known, "TERM": "xterm-256color", **env})
    parts = []
    try:
        while part := os.read(fd, 1 << 16):
            parts.append(part)
    except OSError:  # Linux says so when the other end is closed
        pass
    assert os.waitpid(child, 0)[1] == 0
    os.close(fd)
    return b"".join(parts).decode().replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("env", "colored"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)], ids=str
)
def test_terminals_have_colour_unless_told(env: dict[str, str], colored: bool) -> None:
    """A terminal has colours and its own width; NO_COLOR and a dumb terminal have no escapes at all."""
    text = on_a_terminal(GPUS, 60, **env)
    assert ("\x1b[" in text) == colored
    if "TERM" not in env:
        assert max(len(line) for line in PAINT.sub("", text).splitlines()) <= 60


def test_what_is_piped_is_plain() -> None:
    """A pipe has neither colour nor a width, but for COLUMNS; FORCE_COLOR colours it."""

    def piped(**env: str) -> str:
        known = {"TERM": "xterm-256color", "COLUMNS": "", "NO_COLOR": ""}
        return subprocess.check_output(GPUS, env={**os.environ, **known, **env}, text=True)

    plain = piped()
    assert "\x1b" not in plain
    assert max(map(len, plain.splitlines())) > 60
    assert max(map(len, piped(COLUMNS="60").splitlines())) <= 60
    assert squeezed(piped(FORCE_COLOR="1", COLUMNS="200")) == squeezed(plain)
    assert piped(FORCE_COLOR="1").startswith("\x1b[1m")


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False), ({}, False)],
)
def test_errors_stand_out_where_colour_does(variables: dict[str, str], coloured: bool) -> None:
    """The first words of an error are red and bold on a screen, plain in a pipe and under NO_COLOR."""
    known = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    command = [sys.executable, "-m", "vramfit", "inspect", "nowhere.gguf"]
    done = subprocess.run(command, capture_output=True, text=True, env={**known, **variables}, check=False)
    assert done.stderr.endswith("nowhere.gguf: no such file\n")
    assert done.stderr.startswith("\x1b[1;31mvramfit:\x1b[0m " if coloured else "vramfit: ")
