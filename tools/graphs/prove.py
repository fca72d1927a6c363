"""Headers × settings → what is equal, what differs and how, by architecture.

An oracle says what the engine builds for a case: `live.truths` asks the engine itself; any other with the same
signature can be named on the command line.
"""

from __future__ import annotations

import pathlib
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple, TextIO

from vramfit._base.errors import VramfitError
from vramfit._ggml.graph import Graph
from vramfit._graphs import Instance, Run
from vramfit._llama.model import Model

from .cases import SETTINGS, Case, cases, read
from .compare import Difference, first_difference, layer_difference, listing
from .ours import Unbuildable, alike, graph_of, recorded_lines, short_of

__all__ = [
    "FAULTS",
    "OUTCOMES",
    "Oracle",
    "Proof",
    "Refused",
    "Report",
    "Truth",
    "Unable",
    "collapse_difference",
    "prove",
    "prove_case",
]

# What can come of a case: only FAULTS are a builder's
OUTCOMES: Final = ("equal", "different", "failed", "outside", "refused", "unable", "died")
FAULTS: Final = frozenset(("different", "failed"))


class Refused(Exception):
    """The engine does not make this context; the text is its reason."""


class Unable(Exception):
    """The oracle does not know what the engine builds here; the text says why."""


class Truth(NamedTuple):
    """One graph of the engine's. `fused`: positions among the nodes and layers of fused nodes, None where unknown;
    `lines`: where each tensor was made, by its position."""

    run: Run
    graph: Graph
    fused: frozenset[tuple[int, int]] | None = None
    lines: Mapping[int, str] = {}


_REASONS: Final = 5  # that a summary gives for each architecture

Oracle = Callable[[Case], Iterable[Truth]]


class Proof(NamedTuple):
    """What came of one graph (or of a case that has none), and the words for a person."""

    architecture: str
    header: str
    settings: str
    outcome: str
    what: str = ""
    details: tuple[str, ...] = ()


def _proof(case: Case, outcome: str, what: str = "", details: tuple[str, ...] = ()) -> Proof:
    return Proof(case.model.architecture, case.path.name, case.name, outcome, what, details)


def prove_case(case: Case, oracle: Oracle) -> list[Proof]:
    """Compare every reservation of a case."""
    try:
        truths = list(oracle(case))
    except (Refused, VramfitError) as e:
        return [_proof(case, "refused", str(e))]
    except Unable as e:
        return [_proof(case, "unable", str(e))]
    return [_prove_run(case, i, truth, oracle) for i, truth in enumerate(truths)]


def _prove_run(case: Case, number: int, truth: Truth, oracle: Oracle) -> Proof:
    try:
        made = graph_of(case.model, truth.run, case.placement)
    except Unbuildable as e:
        return _proof(case, "outside", str(e))
    except Exception as e:
        return _proof(
            case, "failed", f"{type(e).__name__}: {e}", tuple(traceback.format_exc().splitlines()[-8:])
        )
    found = first_difference(made.graph, truth.graph, case.placement.n_devices > 0)
    if found is None:
        what = _fused_difference(made, truth) or collapse_difference(case, truth.run, made)
        return _proof(case, "different" if what else "equal", what)
    return _explained(case, number, truth.run, oracle)


def _fused_difference(made: Instance, truth: Truth) -> str:
    """Nodes that the engine looks for on the device of their layer, and the layers' starts."""
    at = {i: k for k, i in enumerate(made.graph.nodes)}
    ours = {(at[i], layer) for i, layer, _ in made.fused}
    if truth.fused is not None and ours != truth.fused:
        node, layer = min(ours ^ truth.fused)
        whose = "is" if (node, layer) in truth.fused else "is not"
        return f"node {node} of layer {layer} {whose} a fused node of the engine's"
    starts = made.starts
    if list(starts) != sorted(starts) or (starts and starts[-1] > len(made.graph.nodes)):
        return f"the layers start at {starts} of {len(made.graph.nodes)} nodes"
    return ""


def collapse_difference(case: Case, run: Run, made: Instance) -> str:
    """How the layers that stand for all of `made` fail to; nothing where they do not."""
    return _false_repeat(case, made) or _unlike_alone(case, run, made)


def _false_repeat(case: Case, made: Instance) -> str:
    """Layers that are taken for repeats of one another, and do not make the same nodes.

    With their neighbours, because the first nodes of a layer may stand among the last of the layer before.
    """
    if not made.starts:
        return ""
    kinds = [None, *alike(case.model, case.placement), None]
    seen: dict[object, int] = {}
    for il in range(len(kinds) - 2):
        first = seen.setdefault(tuple(kinds[il : il + 3]), il)
        if first != il and (what := layer_difference(made, first, made, il)):
            return f"layer {il} is taken for a repeat of layer {first}: {what}"
    return ""


def _unlike_alone(case: Case, run: Run, made: Instance) -> str:
    """A layer that makes other nodes where only those layers are built that stand for all."""
    if not made.starts:
        return ""
    layers, short = short_of(case.model, run, case.placement)
    if len(short.starts) != len(layers) + 1:
        return f"{len(layers)} layers stand for all and begin at {len(short.starts) - 1} places"
    for at, il in enumerate(layers):
        if what := layer_difference(made, il, short, at):
            return f"layer {il} among those that stand for all: {what}"
    return ""


def _explained(case: Case, number: int, run: Run, oracle: Oracle) -> Proof:
    """The difference again, with the lines that made both tensors."""
    with recorded_lines() as lines:
        graph = graph_of(case.model, run, case.placement).graph
    truth = list(oracle(replace(case, lines=True)))[number]
    found = first_difference(graph, truth.graph, case.placement.n_devices > 0)
    if found is None:
        return _proof(case, "failed", "another graph when it is built again")
    mine = lines.get(id(graph.tensors[found.ours]), "") if found.ours >= 0 else ""
    theirs = truth.lines.get(found.theirs, "")
    words = (
        f"{run.n_tokens} tokens, {run.n_seqs} sequences, {run.n_outputs} outputs; {_settings(case)}",
        "ours" + (f", made at {mine}" if mine else ""),
        *_listed(graph, found, found.ours),
        "the engine's" + (f", made at {theirs}" if theirs else ""),
        *_listed(truth.graph, found, found.theirs),
    )
    return _proof(case, "different", str(found), words)


def _settings(case: Case) -> str:
    own = " ".join(f"{k}={v}" for k, v in case.arguments.items())
    return f"cards {list(case.gpus_mib)} {own}"


def _listed(graph: Graph, found: Difference, at: int) -> list[str]:
    lines = listing(graph, found.number, found.order)
    return [("  > " if int(x.split()[0]) == found.number and at >= 0 else "    ") + x for x in lines]


@dataclass
class Report:
    """Counts by architecture, printed as they come: at most `most` differences of each architecture in full."""

    out: TextIO
    most: int = 1
    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    reasons: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    shown: Counter[str] = field(default_factory=Counter)

    def add(self, proof: Proof) -> None:
        """Count what came of a graph; print what differs."""
        name = proof.architecture
        self.counts[name][proof.outcome] += 1
        if proof.outcome != "equal":
            self.reasons[name][f"{proof.outcome}: {proof.what}"] += 1
        if proof.outcome in FAULTS:
            self.shown[name] += 1
            if self.shown[name] <= self.most:
                self._show(proof)

    def _show(self, proof: Proof) -> None:
        print(f"\n{proof.header}, {proof.settings}: {proof.what}", file=self.out)
        for line in proof.details:
            print(f"  {line}", file=self.out)
        self.out.flush()

    def summarize(self) -> bool:
        """Print the counts; whether nothing differs."""
        print(file=self.out)
        for name, counts in sorted(self.counts.items()):
            said = ", ".join(f"{counts[o]} {o}" for o in OUTCOMES if counts[o])
            print(f"{name:20} {said}", file=self.out)
            for reason, n in sorted(self.reasons[name].items(), key=_faults_first)[:_REASONS]:
                print(f"{'':20}   {n} × {reason[:160]}", file=self.out)
        total: Counter[str] = sum(self.counts.values(), Counter())
        print(
            f"{'all':20} {', '.join(f'{total[o]} {o}' for o in OUTCOMES if total[o]) or 'nothing'}",
            file=self.out,
        )
        return not any(total[o] for o in FAULTS)


def _faults_first(reason: tuple[str, int]) -> tuple[bool, int]:
    return reason[0].partition(":")[0] not in FAULTS, -reason[1]


def prove(
    headers: Iterable[pathlib.Path],
    oracle: Oracle,
    report: Report,
    settings: Mapping[str, Mapping[str, Any]] = SETTINGS,
    architecture: str = "",
) -> None:
    """Prove each header under all settings; headers that the library does not read are skipped."""
    for path in headers:
        model = _read(path, report)
        if model is None or (architecture and model.architecture != architecture):
            continue
        for case in cases(path, model, settings):
            for proof in prove_case(case, oracle):
                report.add(proof)


def _read(path: pathlib.Path, report: Report) -> Model | None:
    try:
        return read(path)
    except VramfitError as e:
        print(f"{path}: not read: {e}", file=report.out)
        return None
