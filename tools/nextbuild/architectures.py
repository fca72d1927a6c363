"""The architectures of a tree: names, the definitions that make each, header keys, tensor names, flags, the converter's models.

In: a folder. Out: `Tables`, which a record keeps; and what differs between two of them. Read with patterns from the tables that
the engine has: `LLM_ARCH_NAMES`, `LLM_KV_NAMES`, `LLM_TENSOR_NAMES`, the switch that makes a model, `add_opt` of its arguments.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from .trees import Folder, Part, Tree

__all__ = ["Tables", "likest", "parts_of", "read_tables"]

_ROW: Final = re.compile(r"\{\s*(LLM_\w+)\s*,\s*\"([^\"]+)\"\s*\}")
_CASE: Final = re.compile(r"case\s+(LLM_ARCH_\w+)\s*:")
_MADE: Final = re.compile(r"new\s+(llama_model_\w+)|make_unique<\s*(ll[am]m?a?_\w+)")
_CLASS: Final = re.compile(r"\b(?:llama_model|llm_build|llm_graph_context)_\w+")
_OPTION: Final = re.compile(r"common_arg\(\s*\{([^}]*)\}")
_MODELS: Final = "src/models/"
Names = list[tuple[str, str]]  # of definitions, with their paths


class Tables(NamedTuple):
    """What a tree can load and be told. `architectures`: the definitions of each, the first its own."""

    architectures: dict[str, Names]
    keys: list[str]
    tensors: list[str]
    flags: list[str]
    converter: dict[str, list[str]]  # of each model that it knows: the architecture, a digest of its class

    @classmethod
    def of(cls, tables: Mapping[str, Any]) -> Tables:
        """The tables that a record has."""
        own = {
            name: [(path, part) for path, part in parts] for name, parts in tables["architectures"].items()
        }
        return cls(**{**tables, "architectures": own})


def read_tables(tree: Folder) -> Tables:
    """Read them all."""
    names = tree.text("src/llama-arch.cpp")
    return Tables(
        _architectures(tree),
        sorted({text for _, text in _rows(names, "LLM_KV_NAMES")}),
        sorted({text for _, text in _rows(names, "LLM_TENSOR_NAMES")}),
        sorted(
            {
                f
                for m in _OPTION.finditer(tree.text("common/arg.cpp"))
                for f in re.findall(r'"(-[^"]+)"', m[1])
            }
        ),
        _converter(tree),
    )


def _rows(text: str, table: str) -> list[tuple[str, str]]:
    found = re.search(rf"\b{table}\b[^;]*?= \{{(.*?)^\}};", text, re.DOTALL | re.MULTILINE)
    return _ROW.findall(found[1]) if found else []


def _architectures(tree: Folder) -> dict[str, Names]:
    made = _classes(tree.text("src/llama-model.cpp"))
    homes = _homes(tree)
    return {
        name: _closure(made.get(enum, ""), homes)
        for enum, name in _rows(tree.text("src/llama-arch.cpp"), "LLM_ARCH_NAMES")
    }


def _classes(text: str) -> dict[str, str]:
    """The type that is made of each architecture."""
    found: dict[str, str] = {}
    waiting: list[str] = []
    for line in text.splitlines():
        waiting += _CASE.findall(line)
        if made := _MADE.search(line):
            found.update(dict.fromkeys(waiting, made[1] or made[2]))
        if made or "break;" in line or "default:" in line:
            waiting = []
    return found


def _homes(tree: Folder) -> dict[str, list[tuple[str, Part]]]:
    """The definitions of each type in the folder of models: itself, and its functions."""
    found: defaultdict[str, list[tuple[str, Part]]] = defaultdict(list)
    for path in tree.paths():
        if path.startswith(_MODELS):
            for part in tree.parts(path):
                found[part.name.partition("::")[0]].append((path, part))
    return found


def _closure(name: str, homes: Mapping[str, Sequence[tuple[str, Part]]]) -> Names:
    """The definitions of a type and of those that it builds on, its own functions first."""
    found: Names = []
    waiting, seen = [name], {name}
    while waiting:
        own = homes.get(waiting.pop(0), ())
        for path, part in sorted(own, key=lambda x: x[0].endswith(".h")):
            found.append((path, part.name))
            for other in sorted({w for _, line in part.lines for w in _CLASS.findall(line)} - seen):
                seen.add(other)
                waiting.append(other)
    return list(dict.fromkeys(found))


def parts_of(names: Names, tree: Tree) -> list[tuple[str, Part]]:
    """The definitions of an architecture in a tree."""
    return [(path, part) for path, name in names for part in tree.parts(path) if part.name == name]


def likest(names: Names, tree: Tree, others: Mapping[str, Names], known: Tree) -> tuple[str, float]:
    """The architecture of another tree that has most of these lines, and what share of them."""
    marks = _marks(names[:1] and [n for n in names if n[0] == names[0][0]], tree)
    found = [
        (len(marks & _marks(theirs, known)) / max(len(marks), 1), name) for name, theirs in others.items()
    ]
    share, name = max(found, default=(0.0, ""))
    return name, share


def _marks(names: Names, tree: Tree) -> set[str]:
    return {mark for _, part in parts_of(names, tree) for mark in part.marks}


def _converter(tree: Folder) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in (*sorted(tree.root.glob("conversion/*.py")), tree.root / "convert_hf_to_gguf.py"):
        if path.is_file():
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    digest = hashlib.blake2b(ast.dump(node).encode(), digest_size=8).hexdigest()
                    found.update({key: [_written(node), digest] for key in _registered(node)})
    return found


def _registered(node: ast.ClassDef) -> Iterator[str]:
    for call in node.decorator_list:
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr == "register"
        ):
            yield from (
                a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)
            )


def _written(node: ast.ClassDef) -> str:
    """The architecture that a class writes, as the converter names it."""
    for line in node.body:
        if isinstance(line, ast.Assign) and isinstance(line.value, ast.Attribute):
            names = [t.id for t in line.targets if isinstance(t, ast.Name)]
            if "model_arch" in names:
                return line.value.attr
    return ""
