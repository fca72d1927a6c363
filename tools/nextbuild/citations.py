"""Where the library's docstrings and comments cite the engine's source: file and lines, file and names, or a whole file.

In: the package's folder, and the definitions of the engine that it follows. Out: each cited definition with the places that
cite it. A citation is `file:12`, `file:12-40, 52`, a number in parentheses behind a file of the same text (or, where a module
says whose its line numbers are, anywhere in it), or a file beside names that it defines.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from .trees import Part, Tree

__all__ = ["Cited", "Place", "Text", "cited", "texts"]

_LINES: Final = r"\d+(?:-\d+)?(?:, \d{2,}(?:-\d+)?(?=[,);\s]|$))*"
_FILE: Final = re.compile(
    rf"(?<![\w./-])(?P<file>(?:[\w-]+/)*-?[\w-]+\.(?:cpp|cuh|cu|hpp|h|mm|m|c))(?![\w-]|\.\w)(?::(?P<lines>{_LINES}))?"
    rf"|\((?:[^()]*?[ ,])?:?(?P<bare>{_LINES})(?:,[^()]*)?\)"
)
_OF_ONE_FILE: Final = re.compile(r"line\s+numbers|lines\s+below")
_CITING: Final = re.compile(r"#.*(?:\.(?:cpp|cuh?|hp*|mm?|c)\b|`|[(:]\d)")
_NAME: Final = re.compile(r"[A-Za-z_]\w*(?:::~?\w+)*\*?")
_QUOTED: Final = re.compile(r"`([A-Za-z_]\w*(?:::~?\w+)*)`")
_NEAR: Final = 3  # lines between a citation and what it is about
_WHOLE: Final = 24  # definitions of a file that is cited as a whole; of a larger one a mention says nothing
_PLAIN: Final = 8  # letters that a quoted name needs to stand for a definition without its file
_NOBODY: Final = "llama.cpp"  # the project's own name and that of its kin, where no line follows


class Place(NamedTuple):
    """Who cites: a file of the package and the function or type around the text, "" for the module."""

    file: str
    owner: str

    def __str__(self) -> str:
        return f"{self.file}: {self.owner}" if self.owner else self.file


class Text(NamedTuple):
    """A docstring or a block of comments."""

    place: Place
    line: int
    text: str


class Cited(NamedTuple):
    """What rules cite: the places by the definition, the files, and the citations that mean nothing in this tree."""

    places: dict[tuple[str, str], list[Place]]  # by path and name
    lost: list[tuple[Place, str]]
    paths: set[str]


def texts(folder: Path) -> Iterator[Text]:
    """Read the docstrings and the comments of all modules of a package."""
    for path in sorted(folder.rglob("*.py")):
        source = path.read_text()
        tree = ast.parse(source)
        owners = list(_owners(tree))
        file = path.relative_to(folder.parent).as_posix()
        for line, text in (*_docstrings(tree), *_comments(source)):
            owner = max((o for o in owners if o[0] <= line <= o[1]), default=(0, 0, ""), key=lambda o: o[0])
            yield Text(Place(file, owner[2]), line, text)


def _owners(tree: ast.AST, prefix: str = "") -> Iterator[tuple[int, int, str]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            name = f"{prefix}{node.name}"
            yield node.lineno, node.end_lineno or node.lineno, name
            yield from _owners(node, f"{name}.")


def _docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.lineno, node.value.value


def _comments(source: str) -> Iterator[tuple[int, str]]:
    """Comments that may cite something, those of lines that follow one another as one."""
    if not _CITING.search(source):
        return
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    found = [(t.start[0], t.string.lstrip("# ")) for t in tokens if t.type == tokenize.COMMENT]
    block: list[str] = []
    start = last = 0
    for line, text in found:
        if block and line != last + 1:
            yield start, "\n".join(block)
            block = []
        start, last = start if block else line, line
        block.append(text)
    if block:
        yield start, "\n".join(block)


def cited(said: Sequence[Text], tree: Tree, by_name: bool = True) -> Cited:
    """Find the definitions that the texts cite, in a tree that their line numbers are of.

    `by_name`: also what they quote without a file, where one file alone defines it.
    """
    modules: defaultdict[str, list[Text]] = defaultdict(list)
    for text in said:
        modules[text.place.file].append(text)
    found = Cited({}, [], set())
    for of_module in modules.values():
        _of_module(of_module, tree, found)
    if by_name:
        for text in said:
            _quoted(text, tree, found)
    return found


def _of_module(said: Sequence[Text], tree: Tree, found: Cited) -> None:
    head = min(said, key=lambda t: t.line)
    own = ""  # the file whose lines the module's bare numbers are
    if _OF_ONE_FILE.search(head.text):
        own = next((p for m in _FILE.finditer(head.text) if (p := _path(m["file"], "", tree))), "")
    words = {w for t in said for w in _NAME.findall(t.text)} | {
        t.place.owner.rpartition(".")[2] for t in said
    }
    for text in said:
        _of_text(text, tree, found, own, words if text is head else set())


def _of_text(text: Text, tree: Tree, found: Cited, own: str, words: set[str]) -> None:
    """`words`: what a file without lines may be about where its text names nothing of it."""
    path, last, numbered = own, "", bool(own)
    for match in _FILE.finditer(text.text):
        if match["file"]:
            last, numbered = match["file"], bool(match["lines"]) or bool(own)
            if last.endswith(_NOBODY) and not match["lines"]:
                continue
            path = _path(last, path, tree, match["lines"])
            if not path:
                found.lost.append((text.place, match[0]))
                continue
            found.paths.add(path)
        lines = match["lines"] or match["bare"]
        if match["bare"] and not (path and numbered):
            continue
        parts = _at(tree.parts(path), lines) if lines else _named(path, tree, text, words, path != own)
        if lines and not parts and match["lines"]:
            found.lost.append((text.place, match[0]))
        _add(found, path, parts, text.place)


def _quoted(text: Text, tree: Tree, found: Cited) -> None:
    for name in set(_QUOTED.findall(text.text)):
        homes = tree.homes(name) if len(name) >= _PLAIN else ()
        if len(homes) == 1:
            _add(found, homes[0][0], [homes[0][1]], text.place)


def _add(found: Cited, path: str, parts: Sequence[Part], place: Place) -> None:
    for part in parts:
        places = found.places.setdefault((path, part.name), [])
        if place not in places:
            places.append(place)


def _path(file: str, before: str, tree: Tree, lines: str | None = None) -> str:
    """The file that is meant: one that has these lines, the shortest path that ends so.

    "-msa.cpp" is short for a kin of the file `before`.
    """
    folder = before.rpartition("/")[0]
    ends = [p for p in tree.paths() if p.endswith("/" + file)] or [
        p for p in tree.paths() if p.endswith(file)
    ]
    ends.sort(key=lambda p: (not p.startswith(folder), p.count("/"), len(p)))
    return next((p for p in ends if lines and _at(tree.parts(p), lines)), ends[0] if ends else "")


def _at(parts: Sequence[Part], lines: str) -> list[Part]:
    """The definitions that these lines touch, else what begins right behind: a citation may point at what stands above."""
    found = []
    for span in lines.split(","):
        first, _, last = span.strip().partition("-")
        a, b = int(first), int(last or first)
        near = next((n for n in range(_NEAR + 1) if any(p.start <= b + n and p.end >= a for p in parts)), 0)
        found += [p for p in parts if p.start <= b + near and p.end >= a]
    return found


def _named(path: str, tree: Tree, text: Text, words: set[str], whole: bool) -> list[Part]:
    """The definitions that a text names, or all of a file that is small, or those that its module names.

    The file of an architecture counts as a whole: a builder follows all of it. `whole`: whether another may, too; not one that
    is named because line numbers are its own.
    """
    parts = tree.parts(path)
    found = _among(parts, set(_NAME.findall(text.text)), words)
    if path.startswith("src/models/") or (whole and not found and len(parts) <= _WHOLE):
        return list(parts)
    return found or _among(parts, words, words)


def _among(parts: Sequence[Part], names: set[str], words: set[str]) -> list[Part]:
    starts = tuple(n[:-1] for n in names if n.endswith("*"))
    return [
        p for p in parts if {p.name, p.name.rpartition("::")[2]} & names or _continues(p.name, starts, words)
    ]


def _continues(name: str, starts: Sequence[str], words: set[str]) -> bool:
    """Whether a name begins so and, where the module has words, ends with one: `ggml_*` and `def mul_mat`."""
    ends = [name[len(s) :] for s in starts if name.startswith(s)]
    return any(e in words for e in ends) if words else bool(ends)
