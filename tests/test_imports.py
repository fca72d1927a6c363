"""The house: rooms on floors, arrows that point down, no circles; only some rooms have doors to the outside."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import vramfit

SRC = Path(vramfit.__file__).parent

# From the ground up, as docs/internals/design.md draws it: a room imports only rooms of floors below its own.
FLOORS = [
    ["_base"], ["_ggml"], ["_gguf", "_devices", "_logs"], ["_llama", "_mtmd"], ["_coerce", "_graphs", "_company"],
    ["_estimate", "_quant", "_sources"], ["_planner"], ["_engines"], ["_modelfile", "_verify", "_live"], ["_report"], ["_cli"],
    ["__init__", "__main__"],
]  # fmt: skip
FLOOR = {room: n for n, rooms in enumerate(FLOORS) for room in rooms}
OUTSIDE = {"subprocess", "socket", "urllib", "http", "requests", "huggingface_hub", "httpx"}
DOORS = {"_sources", "_devices", "_live", "_cli"}
HEAVY = ["numpy", "pydantic", "yaml", "huggingface_hub", "gguf", "matplotlib"]
MODULES = sorted(SRC.rglob("*.py"))


def name_of(path: Path) -> tuple[str, ...]:
    """The dotted name of a module within the package: () is the package itself."""
    parts = path.relative_to(SRC).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


NAMES = {name_of(p): p for p in MODULES}


def room(name: tuple[str, ...]) -> str:
    return name[0] if name else "__init__"


@cache
def imports(path: Path) -> tuple[frozenset[tuple[str, ...]], frozenset[str]]:
    """Modules of ours and top packages of others that a module imports, in functions and by text as well."""
    name = name_of(path)
    package = name if path.name == "__init__.py" else name[:-1]
    tree = ast.parse(path.read_text())
    skipped = {
        id(node)
        for guard in ast.walk(tree)
        if isinstance(guard, ast.If) and ast.unparse(guard.test) == "TYPE_CHECKING"
        for node in ast.walk(guard)
    }
    ours: set[tuple[str, ...]] = set()
    others: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            others |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            others.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            base = (*package[: len(package) - node.level + 1], *(node.module or "").split("."))
            base = tuple(part for part in base if part)
            ours |= {(*base, a.name) if (*base, a.name) in NAMES else base for a in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            ours |= set(_named(node.value))
    return frozenset(ours), frozenset(others)


def _named(text: str) -> Iterator[tuple[str, ...]]:
    """A module that a string names, as `import_module` takes it or as the package's tables do."""
    parts = tuple(text.removeprefix("vramfit.").strip(".").split("."))
    for end in range(len(parts), 0, -1):
        if parts[:end] in NAMES and parts[0].startswith("_") and len(parts) - end < 2:
            yield parts[:end]
            return


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SRC)))
def test_arrows_point_down(path: Path) -> None:
    """A module imports only its own room and rooms of lower floors, wherever in it and however it imports."""
    here = room(name_of(path))
    for other in map(room, imports(path)[0]):
        assert (
            other == here
            or (other == "__init__" and here in ("_cli", "_sources"))
            or FLOOR[other] < FLOOR[here]
        )


def test_modules_import_in_no_circle() -> None:
    """No module imports itself by way of others."""
    left = {
        name: {m for m in imports(path)[0] if m in NAMES and m != name}
        for name, path in NAMES.items()
        if name
    }
    while True:
        done = [name for name, wanted in left.items() if not wanted & left.keys()]
        if not done:
            break
        for name in done:
            del left[name]
    assert not left, sorted(".".join(name) for name in left)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SRC)))
def test_only_doors_reach_outside(path: Path) -> None:
    """Network and processes are touched in sources, devices and the command line alone."""
    if room(name_of(path)) not in DOORS:
        assert not imports(path)[1] & OUTSIDE


def test_importing_is_light() -> None:
    """`import vramfit` and the command line load none of the heavy libraries."""
    code = f"import sys, vramfit, vramfit._cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


PLANNED = """
import contextlib, io, sys
from vramfit._cli import main
with contextlib.redirect_stdout(io.StringIO()):
    main(["plan", "examples/qwen2.5-14b-instruct-1m-q8_0.gguf", "--gpus", "3090ti"], standalone_mode=False)
print(*sys.modules)
"""
# What a plan that is printed as text never needs: other questions, other outputs, other places, and what these import.
UNASKED = [
    "vramfit._modelfile", "vramfit._quant", "vramfit._engines.ollama", "vramfit._engines.choose",
    "vramfit._planner.compare", "vramfit._planner.which", "vramfit._planner.sweep", "vramfit._planner.whatif",
    "vramfit._report.html", "vramfit._report.schema", "vramfit._report.plots", "vramfit._report.alternatives",
    "vramfit._sources.grammar", "vramfit._sources.lookup", "vramfit._sources.client",
    "vramfit._cli.files", "vramfit._cli.compare", "vramfit._cli.modelfile", "vramfit._cli.which",
    "rich", "difflib", "email", "html", "http", "logging", "shutil", "socket", "ssl", "subprocess", "tempfile",
]  # fmt: skip


def test_a_plan_imports_what_it_uses() -> None:
    """Planning for a file of this machine loads click, what plans, and what prints a table."""
    done = subprocess.check_output([sys.executable, "-c", PLANNED], text=True, cwd=SRC.parents[1])
    loaded = set(done.split())
    assert sorted(loaded & {*UNASKED, *HEAVY}) == []
    assert len([m for m in loaded if m.startswith("vramfit")]) < 137  # of some 270


def test_public_names() -> None:
    """Everything public can be imported, nothing else is offered, and all other modules are private."""
    for name in vramfit.__all__:
        assert getattr(vramfit, name) is not None
    assert sorted(vramfit.__dir__()) == sorted(vramfit.__all__)
    assert all(name[0].startswith("_") for name in NAMES if name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vramfit.nothing  # noqa: B018


def test_behind_a_context_nobody_reads_settings() -> None:
    """What a person asked is read where a placement and a context are made of it, not behind them."""
    may = {"company", "estimate", "explain"}  # they begin with settings and resolve them
    asking = {
        path.stem
        for name, path in NAMES.items()
        if room(name) in ("_ggml", "_graphs", "_estimate") and ("_llama", "params") in imports(path)[0]
    }
    assert asking <= may


@pytest.mark.parametrize(
    ("rule", "home"),
    [
        (r"n_ubatch or |or \w+\.n_batch", "_llama/cparams.py"),
        (
            r"1 if (\w+\.)*settings\.kv_unified|if settings\.kv_unified:",
            "_llama/cparams.py",
        ),
        (r"any\(.*tensor_split\b", "_llama/placement.py"),
        (r"n_ctx or \w+\.n_ctx_train", "_llama/cparams.py"),
        (r"^(HOST|NONE)\b.* = -", "_ggml/graph.py"),
        (r"if \w+\.always_split else", "_llama/cparams.py"),
    ],
)
def test_each_rule_stands_once(rule: str, home: str) -> None:
    """A rule by which settings become something, and a number that means a place, is written in one module."""
    found = [p.relative_to(SRC).as_posix() for p in MODULES if re.search(rule, p.read_text(), re.MULTILINE)]
    assert found == [home]


CHANGING = r"(list|dict|set|OrderedDict|Learned|Memo)\b"


def test_frozen_values_hold_nothing_that_changes() -> None:
    """No frozen dataclass and no named tuple starts with a list, a dict or a set of its own."""
    for name in NAMES:
        if name == ("__main__",):
            continue
        module = import_module(".".join(("vramfit", *name)))
        for noun in vars(module).values():
            if isinstance(noun, type) and noun.__module__ == module.__name__:
                types, starts = _of_frozen(noun)
                changing = [x for x in types if re.match(CHANGING, x)]
                changing += [type(x).__name__ for x in starts if isinstance(x, (list, dict, set))]
                assert not changing, noun


def _of_frozen(noun: type) -> tuple[list[str], list[object]]:
    """The types of a frozen value's fields as its source spells them, and what the fields start with."""
    if issubclass(noun, tuple) and hasattr(noun, "_field_defaults"):
        spelt = [getattr(x, "__forward_arg__", str(x)) for x in noun.__annotations__.values()]
        return spelt, list(noun._field_defaults.values())
    if is_dataclass(noun) and noun.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        makers = [f.default_factory for f in fields(noun)]
        return [str(f.type) for f in fields(noun)], [make() for make in makers if make is not MISSING]
    return [], []


def test_nothing_is_remembered_by_its_address() -> None:
    """Nobody asks where in memory an object lies: what comes after it may lie there too."""
    asking = [
        ".".join(("vramfit", *name))
        for name, path in NAMES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "id"
    ]
    assert asking == []
