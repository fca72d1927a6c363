"""Records a tree: the definitions that the library's citations mean, all models, and the tables.

The citations' line numbers are those of the tree that is recorded, so this is done once for each build that the library follows.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from ..engine import cut
from .architectures import read_tables
from .citations import Cited, Place, cited, texts
from .trees import Folder, Record, Tree

__all__ = ["DATA", "LIBRARY", "citations", "make_record"]

_ROOT: Final = Path(__file__).parents[2]
LIBRARY: Final = _ROOT / "src/vramfit"
DATA: Final = _ROOT / "tests/data/engine/definitions.json.gz"  # of the build that the library follows
# How paths begin that are recorded whether a rule cites them or not, so that a new citation needs no new record.
_MORE: Final = (
    "src/", "include/", "ggml/include/", "ggml/src/ggml.", "ggml/src/ggml-alloc", "ggml/src/ggml-backend", "ggml/src/gguf",
    "ggml/src/ggml-common", "ggml/src/ggml-impl", "ggml/src/ggml-cpu/amx/", "ggml/src/ggml-rpc/", "ggml/src/ggml-hip/",
    "common/arg", "common/common", "common/fit", "common/speculative", "tools/mtmd/", "tools/rpc/",
)  # fmt: skip
_CUTS: Final = {
    "CUDA_TYPES": cut.CUDA_TYPES, "CUDA_RULES": cut.CUDA_RULES, "VULKAN_RULES": cut.VULKAN_RULES,
    "METAL_RULES": cut.METAL_RULES, "SYCL_RULES": cut.SYCL_RULES, "ALLOCATOR": cut.ALLOCATOR,
}  # fmt: skip


def citations(tree: Tree, library: Path = LIBRARY, by_name: bool = True) -> Cited:
    """What the library cites and the tools cut out, by the definitions of the tree that both are about."""
    found = cited(list(texts(library)), tree, by_name)
    for owner, cuts in _CUTS.items():
        place = Place("tools/engine/cut.py", owner)
        for file, pattern in cuts:
            path = f"ggml/src/{file}"
            name = re.compile(rf"(?:\w+::)*(?:{pattern.rpartition(' ')[2]})")
            for part in tree.parts(path):
                if name.fullmatch(part.name):
                    found.places.setdefault((path, part.name), []).append(place)
    return found


def make_record(root: Path, title: str, library: Path = LIBRARY) -> tuple[Record, Cited]:
    """Record a tree; says also which citations mean nothing in it."""
    tree = Folder(root)
    first = citations(tree, library, by_name=False)
    paths = {p for p in tree.paths() if p.startswith(_MORE)} | first.paths | {p for p, _ in first.places}
    files = {path: tree.parts(path) for path in sorted(paths) if path in tree.paths()}
    tables = read_tables(tree)._asdict()
    record = Record(title, files, tables)
    found = citations(record, library)
    kept = {(path, name) for path, name in found.places}
    slim = {
        path: [p._replace(lines=(), marks=p.marks if path.startswith("src/models/") or (path, p.name) in kept else ())
               for p in parts]
        for path, parts in files.items()
    }  # fmt: skip
    return Record(title, slim, tables), found
