"""Proves the library against another build: every builder node for node, and what it reserves byte for byte.

In: a built tree, headers. Out: for each architecture how many graphs are equal, the first difference, and what nodes and inputs a
graph has more and fewer; architectures with the same differences are named together. Then figures: how many equal what the build
reserves, and how many devices need more than estimated. A header is proved in a process of its own: another build may end it.
"""

from __future__ import annotations

import difflib
import gzip
import multiprocessing
import os
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple

from tools.engine import binding
from tools.graphs.cases import SETTINGS, Case, cases, read
from tools.graphs.ours import graph_of
from tools.graphs.prove import FAULTS, Oracle, Refused, Unable, prove_case
from vramfit import estimate
from vramfit._base.errors import VramfitError
from vramfit._devices import Gpu
from vramfit._ggml.graph import Graph
from vramfit._llama.model import Model

__all__ = ["FOLDER", "Bytes", "Found", "changed_nodes", "prove_all", "prove_headers", "said"]

FOLDER: Final = Path(__file__).parents[2] / "tests/data/builders"
_SECONDS: Final = 300  # that one header may take
_MIB: Final = 1 << 20
_CAPABILITY: Final = "8.6"  # of the engine's devices unless told otherwise
# Settings under which what is reserved is measured, too.
_MEASURED: Final = ("one card", "four streams, no flash attention", "q8_0 caches", "half of the layers")
_LARGE: Final = 64 * _MIB  # bytes of a device from which a share of it means something


class Bytes(NamedTuple):
    """A context of the build beside its estimate: whether all figures are equal, and the worst device."""

    exact: bool
    low: int  # devices that need more than estimated
    worst: float  # estimate over what is needed, of the device that is lowest; 1 where none is large
    words: str


class Found(NamedTuple):
    """What came of one header."""

    architecture: str
    header: str
    graphs: Counter[str]
    first: str = ""  # the first difference, with the lines around it
    nodes: tuple[str, ...] = ()  # what differs in all, in short
    bytes: tuple[Bytes, ...] = ()


def prove_all(tree: Path, libraries: Path, architecture: str, only: str, build: str) -> int:
    """Prove every builder against a built tree and print what came of it; 1 where something differs.

    `only`: settings whose name has these words. `build`: what estimates are told that the build is, "" for the one followed.
    Raises `EngineError` where the tree, its libraries or the shim against them do not fit.
    """
    os.environ[binding.SOURCE_VARIABLE], os.environ[binding.LIBRARIES_VARIABLE] = str(tree), str(libraries)
    binding.engine()  # once, before the processes part
    from tools.graphs.live import truths

    found = []
    for one in prove_headers(FOLDER, truths, architecture, only, build):
        found.append(one)
        print(f"{one.header}: {', '.join(f'{n} {what}' for what, n in one.graphs.items())}", file=sys.stderr)
    for line in said(found):
        print(line)
    return int(any(f.graphs.keys() & FAULTS or any(not b.exact for b in f.bytes) for f in found))


def prove_headers(
    folder: Path,
    oracle: Oracle,
    architecture: str = "",
    only: str = "",
    build: str = "",
    measured: bool = True,
) -> Iterator[Found]:
    """Prove the headers of a folder, packed or not."""
    with tempfile.TemporaryDirectory(prefix="nextbuild-") as name:
        for path in sorted(folder.glob("*.gguf*")):
            header = Path(name, path.name.removesuffix(".gz"))
            header.write_bytes(
                gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            )
            try:
                model = read(header)
            except VramfitError as error:
                yield Found("", header.name, Counter(failed=1), f"not read: {error}")
                continue
            if architecture in ("", model.architecture):
                yield _apart(header, model, oracle, only, build, measured)


def _apart(header: Path, model: Model, oracle: Oracle, only: str, build: str, measured: bool) -> Found:
    """Prove a header in a process of its own; one that dies or hangs has proved nothing."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=_send, args=(theirs, header, model, oracle, only, build, measured))
    process.start()
    theirs.close()
    died = Found(model.architecture, header.name, Counter(died=1))
    try:
        if not ours.poll(_SECONDS):
            return died._replace(first=f"took more than {_SECONDS} s")
        found: Found = ours.recv()
        return found
    except EOFError:
        process.join()
        return died._replace(first=f"the process ended with {process.exitcode}")
    finally:
        process.kill()
        process.join()
        ours.close()


def _send(
    to: Connection, header: Path, model: Model, oracle: Oracle, only: str, build: str, measured: bool
) -> None:
    to.send(_one(header, model, oracle, only, build, measured))


def _one(header: Path, model: Model, oracle: Oracle, only: str, build: str, measured: bool) -> Found:
    counts: Counter[str] = Counter()
    first = ""
    nodes: tuple[str, ...] = ()
    sizes: list[Bytes] = []
    chosen = {name: own for name, own in SETTINGS.items() if only in name}
    for case in (replace(c, build=build) for c in cases(header, model, chosen)):
        for proof in prove_case(case, oracle):
            counts[proof.outcome] += 1
            if proof.outcome in FAULTS and not first:
                first = "\n".join((f"{proof.settings}: {proof.what}", *proof.details))
                nodes = changed_nodes(case, oracle)
        if measured and case.name in _MEASURED:
            sizes += _sizes(case)
    return Found(model.architecture, header.name, counts, first, nodes, tuple(sizes))


def changed_nodes(case: Case, oracle: Oracle) -> tuple[str, ...]:
    """What a case's first graph has of the build that ours has not (+), and the reverse (-): `+ MUL_MAT × 2`."""
    try:
        truth = next(iter(oracle(case)))
        ours = graph_of(case.model, truth.run, case.placement).graph
    except (Refused, Unable, VramfitError):
        return ()
    found: Counter[str] = Counter()
    for mine, theirs in ((_inputs(ours), _inputs(truth.graph)), (_nodes(ours), _nodes(truth.graph))):
        matcher = difflib.SequenceMatcher(None, mine, theirs, autojunk=False)
        for what, a, b, c, d in matcher.get_opcodes():
            if what != "equal":
                found.update(f"- {x[0]}" for x in mine[a:b])
                found.update(f"+ {x[0]}" for x in theirs[c:d])
    return tuple(f"{name} × {n}" if n > 1 else name for name, n in sorted(found.items()))


def _inputs(graph: Graph) -> list[tuple[Any, ...]]:
    leafs = (graph.tensors[i] for i in graph.leafs)
    return [(f"input {t.type.name}", t.ne) for t in leafs if not t.usage]


def _nodes(graph: Graph) -> list[tuple[Any, ...]]:
    return [(t.op, t.type.name, t.ne) for t in (graph.tensors[i] for i in graph.nodes)]


def _sizes(case: Case) -> list[Bytes]:
    """What the build reserves beside the estimate; nothing where either refuses."""
    from tools.engine.measure import measure

    row = measure(case.path, case.gpus_mib, dict(case.arguments))
    if "refused" in row or not case.gpus_mib:
        return []
    gpus = [
        Gpu(name=f"card {i}", total_bytes=m * _MIB, compute_capability=_CAPABILITY)
        for i, m in enumerate(case.gpus_mib)
    ]
    try:
        found = estimate(case.model, gpus, case.settings)
    except VramfitError:
        return []
    ours = [(d.model, d.context, d.compute) for d in (*found.gpus, found.host)]
    theirs = [(d["model"], d["context"], d["compute"]) for d in (*row["gpus"], row["host"])]
    pairs = [(sum(a), sum(b)) for a, b in zip(ours, theirs, strict=True)][:-1]
    worst = min((a / b for a, b in pairs if b >= _LARGE), default=1.0)
    return [
        Bytes(
            ours == theirs,
            sum(a < b for a, b in pairs),
            worst,
            f"{case.name}: ours {ours}, the build's {theirs}",
        )
    ]


def said(found: Sequence[Found]) -> Iterator[str]:
    """All of it in words: by what differs, then figures, then the first difference of each architecture."""
    yield from _by_nodes(found)
    yield ""
    yield from _figures([b for f in found for b in f.bytes])
    shown: set[str] = set()
    for f in found:
        if f.first and f.architecture not in shown:
            shown.add(f.architecture)
            yield f"\n{f.header}, {f.first}"


def _by_nodes(found: Iterable[Found]) -> Iterator[str]:
    groups: defaultdict[tuple[str, ...], list[Found]] = defaultdict(list)
    for f in found:
        groups[f.nodes or (f"only {', '.join(sorted(f.graphs))}",)].append(f)
    total: Counter[str] = sum((f.graphs for f in found), Counter())
    yield f"Graphs: {', '.join(f'{n} {what}' for what, n in sorted(total.items())) or 'none'}."
    for nodes, of_it in sorted(groups.items(), key=lambda g: -len(g[1])):
        names = sorted({f.architecture or f.header for f in of_it})
        yield f"\n{len(names)} architectures: {'; '.join(nodes)}"
        yield f"  {', '.join(names)}"


def _figures(sizes: Sequence[Bytes]) -> Iterator[str]:
    exact, low = sum(b.exact for b in sizes), sum(b.low > 0 for b in sizes)
    yield f"Figures: {exact} of {len(sizes)} contexts exact, {low} with a device that needs more than estimated."
    for b in sorted(sizes, key=lambda b: b.worst)[:3]:
        if b.low:
            yield f"  {b.worst:.4f} {b.words}"
