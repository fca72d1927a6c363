"""The house: data flows one way, and only some rooms have doors to the outside."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vramfit

SRC = Path(vramfit.__file__).parent

# Each module (or package) imports only what stands before it.
ORDER = [
    "foreign", "errors", "units", "progress", "shown", "ggml", "graph", "header", "model", "memo", "architectures", "settings", "flags", "gpus", "coerce", "backends", "context",
    "loader", "placement", "memory", "collapse", "scheduler", "allocator", "steady", "bound", "graphs", "replay", "compute",
    "estimates", "explain", "lines", "pieces", "likeness", "segments", "search", "quants", "safety", "solve", "quality", "speed",
    "alternatives", "shortlist", "comparison", "sweeps", "engines", "source", "load", "modelfile", "report", "plots", "cli",
]  # fmt: skip
OUTSIDE = {"subprocess", "socket", "urllib", "http", "requests", "huggingface_hub", "httpx"}
DOORS = {"source", "gpus", "cli"}
HEAVY = ["numpy", "pydantic", "yaml", "huggingface_hub", "gguf", "matplotlib"]


def modules() -> list[Path]:
    return sorted(p for p in SRC.rglob("*.py") if p.parent != SRC or not p.name.startswith("__"))


def room(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def imports(path: Path) -> set[tuple[str, bool]]:
    """(top room or package, whether it is ours) of everything that a module imports at run time."""
    found = set()
    package = ["vramfit", *path.relative_to(SRC).parts[:-1]]
    tree = ast.parse(path.read_text())
    skipped = {
        id(node)
        for guard in ast.walk(tree)
        if isinstance(guard, ast.If) and ast.unparse(guard.test) == "TYPE_CHECKING"
        for node in ast.walk(guard)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {(alias.name.split(".")[0], False) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(((node.module or "").split(".")[0], False))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            full = [*base, *(node.module or "").split(".")] if node.module else base
            names = [full[1]] if len(full) > 1 and full[1] else [alias.name for alias in node.names]
            found |= {(name, True) for name in names}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SRC)))
def test_imports_point_left(path: Path) -> None:
    """A module imports only rooms that come before its own."""
    here = ORDER.index(room(path))
    for name, ours in imports(path):
        if ours and name not in ("__version__", room(path)):
            assert ORDER.index(name) < here, f"{room(path)} imports {name}, which stands right of it"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SRC)))
def test_only_doors_reach_outside(path: Path) -> None:
    """Network and processes are touched in source, gpus and the command line alone."""
    if room(path) not in DOORS:
        assert not {name for name, ours in imports(path) if not ours} & OUTSIDE


def test_importing_is_light() -> None:
    """`import vramfit` and the command line load none of the heavy libraries."""
    code = f"import sys, vramfit, vramfit.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_public_names_are_exactly_these() -> None:
    """Everything public can be imported, and nothing else is offered."""
    for name in vramfit.__all__:
        assert getattr(vramfit, name) is not None
    assert sorted(vramfit.__dir__()) == sorted(vramfit.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vramfit.nothing  # noqa: B018


def test_functions_stay_functions() -> None:
    """No module hides the public function of the same name, whatever was imported first."""
    code = "import vramfit.solve, vramfit.load, vramfit.estimates, vramfit.quants, vramfit.comparison, vramfit.sweeps, vramfit.alternatives, vramfit.shortlist, vramfit as v;" \
        "print(all(map(callable, (v.estimate, v.plan, v.read, v.requantize, v.compare, v.sweep, v.trades, v.best, v.which))))"  # fmt: skip
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "True"
