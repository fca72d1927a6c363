"""What crosses the network between the machines of a plan, and what that costs a token.

In: a placed model on cards of several machines. Out: `Link`: bytes of the scheduler's copies, machine by machine, and
seconds that they take at least. All goes by way of the machine that runs the engine: what one server hands to another
is fetched and sent on (`ggml_backend_tensor_copy`, ggml-backend.cpp:540); two cards of one server copy by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .._base.memo import Memo
from .._devices import Gpu, Machine, machines
from .._estimate.reserve import prepare_case, reservations
from .._ggml.graph import HOST, NONE, OUTPUT, n_bytes
from .._ggml.sched import Schedule
from .._graphs import Unbuildable
from .._llama.cparams import resolve
from .._llama.eras import era_of, rules_of
from .._llama.model import Model
from .._llama.params import Settings
from .._llama.placement import Placement, devices

__all__ = ["DEFAULT_GBITS", "Crossing", "Link", "chain_bytes", "chain_seconds", "link"]

DEFAULT_GBITS: Final = 1.0  # of a network that nobody has named: gigabit Ethernet
_F32: Final = 4
# Bytes of messages, beside tensors' data (ggml-rpc.cpp:28-170): a command and its size, a tensor's description.
_COMMAND: Final = 9
_TENSOR: Final = 296
_SET: Final = _COMMAND + _TENSOR + 1 + 8  # whether to keep it, where it goes
_GET: Final = _COMMAND + _TENSOR + 8 + 8
_ANSWER: Final = 8
_AGAIN: Final = _COMMAND + 4  # the graph sent last, once more
_GRAPH: Final = _COMMAND + 12  # a graph, beside its nodes and tensors


@dataclass(frozen=True, slots=True)
class Crossing:
    """Bytes that one machine gets from, and sends to, the one that runs the engine."""

    received: int
    sent: int

    @property
    def total(self) -> int:
        """Both ways."""
        return self.received + self.sent


@dataclass(frozen=True, slots=True)
class Link:
    """What crosses to each of `machines` but the last, which runs the engine: for one token, and for a full batch of a prompt.

    Tokens count at a full context, whose masks are largest. `seconds` are the least that a token waits for the network.
    """

    machines: tuple[Machine, ...]
    token: tuple[Crossing, ...]
    prompt: tuple[Crossing, ...]
    n_ubatch: int
    gbits: tuple[float, ...]
    assumed: bool  # whether a speed was not given
    seconds: float


def link(model: Model, gpus: Sequence[Gpu], settings: Settings, placement: Placement) -> Link | None:
    """What the network carries; None where all cards are in one machine, or the model's graph is not known.

    The last answers are remembered: a report asks several times.
    """
    key = (tuple(gpus), settings, placement)
    return _RECENT.get(model, key, lambda: _link(model, gpus, settings, placement))


_RECENT: Final[Memo[Link | None]] = Memo(4)


def _link(model: Model, gpus: Sequence[Gpu], settings: Settings, placement: Placement) -> Link | None:
    used = [gpus[i] for i in devices(gpus, settings)]
    found = machines(used)
    if not found:
        return None
    context = resolve(model, settings)
    rules = [rules_of(g, era_of(settings.engine_build)) for g in used]
    try:
        case = prepare_case(model, placement, context, rules)
        prompt, step, _ = reservations(case, context)
        token = step._replace(n_tokens=1, n_seqs=1, n_outputs=1)
        each, batch = (_crossings(case.graph(run, -1)[1], found) for run in (token, prompt))
    except Unbuildable:
        return None
    servers = found[:-1]
    speeds = [used[m.gpus[0]].link_gbits for m in servers]
    return Link(
        found, each, batch, context.n_ubatch,
        tuple(s or DEFAULT_GBITS for s in speeds), None in speeds, chain_seconds(model, placement, used),
    )  # fmt: skip


def chain_bytes(model: Model, placement: Placement, gpus: Sequence[Gpu]) -> tuple[int, ...]:
    """Bytes that a token cannot do without, over the network of each card in use: what one layer hands to the next.

    A row of the embedding, in f32, wherever the next layer is in another machine, and the logits from the last.
    """
    crossed = [0] * len(gpus)
    row = model.n_embd * _F32
    before = HOST
    for at in placement.layers:
        if at != before:
            _cross(crossed, gpus, before, at, row)
            before = at
    _cross(crossed, gpus, before, HOST, model.n_vocab * _F32)
    return tuple(crossed)


def _cross(crossed: list[int], gpus: Sequence[Gpu], source: int, target: int, n: int) -> None:
    ends = ["" if at == HOST else gpus[at].endpoint for at in (source, target)]
    if ends[0] == ends[1]:
        return
    for at, end in zip((source, target), ends, strict=True):
        if end:
            crossed[at] += n


def chain_seconds(model: Model, placement: Placement, gpus: Sequence[Gpu]) -> float:
    """Seconds that each token waits for the network at least, before latency; 0 where all cards are in one machine."""
    if not any(g.remote for g in gpus):
        return 0.0
    sizes = chain_bytes(model, placement, gpus)
    rates = [(g.link_gbits or DEFAULT_GBITS) * 1e9 / 8 for g in gpus]
    return sum(n / rate for n, rate in zip(sizes, rates, strict=True))


def _crossings(plan: Schedule, found: Sequence[Machine]) -> tuple[Crossing, ...]:
    """What each server gets and sends when a scheduled graph runs that ran before with the same shapes."""
    here = len(found) - 1
    side = {i: n for n, m in enumerate(found) for i in m.gpus}  # of a backend: its machine; the CPU's: `here`
    received, sent = [0] * here, [0] * here
    homes = _homes(plan)
    for split in plan.splits:
        target = side.get(split.backend, here)
        for i in split.inputs:
            source = side.get(homes[i], here)
            if source == target:
                continue
            size = n_bytes(plan.tensors[i])
            if source != here:
                received[source] += _GET
                sent[source] += _ANSWER + size
            if target != here:
                received[target] += _SET + size
    for i, at in plan.nodes:
        if (
            plan.tensors[i].name == "result_output"
            and plan.tensors[i].flags & OUTPUT
            and side.get(at, here) != here
        ):
            received[side[at]] += _GET
            sent[side[at]] += _ANSWER + n_bytes(plan.tensors[i])
    for at, size in _graphs(plan).items():
        if side.get(at, here) != here:
            received[side[at]] += size
    return tuple(Crossing(r, s) for r, s in zip(received, sent, strict=True))


def _homes(plan: Schedule) -> dict[int, int]:
    """The backend that each tensor is on."""
    cpu = len(plan.backends) - 1
    homes = dict((*plan.leafs, *plan.nodes))
    for i, t in enumerate(plan.tensors):
        home = plan.tensors[t.view].home if t.view != NONE else t.home
        if home != NONE:
            homes[i] = cpu if home == HOST else home
    return homes


def _graphs(plan: Schedule) -> dict[int, int]:
    """Bytes that tell each backend behind a server what to run.

    A device remembers the graph that it ran last (1031-1046): one split is run again at a word, of several each is sent.
    """
    of: dict[int, list[int]] = {}
    for n, split in enumerate(plan.splits):
        if plan.backends[split.backend].behind:
            of.setdefault(split.backend, []).append(n)
    return {
        at: _AGAIN if len(splits) == 1 else sum(_message(plan, n) for n in splits)
        for at, splits in of.items()
    }


def _message(plan: Schedule, n: int) -> int:
    """Bytes of one split's graph: each node's name, and the description of every tensor that it reaches (976-1015)."""
    split = plan.splits[n]
    nodes = _listed(plan)[split.start : split.end]
    seen: set[int] = set()
    todo = list(nodes)
    while todo:
        i = todo.pop()
        if i in seen:
            continue
        seen.add(i)
        todo += plan.src[i]
        if plan.tensors[i].view != NONE:
            todo.append(plan.tensors[i].view)
    return _GRAPH + 8 * len(nodes) + _TENSOR * len(seen)


def _listed(plan: Schedule) -> list[int]:
    """The nodes of the graph alone, in the order in which they run: without copies and dependencies."""
    added = {c for copies in plan.copies.values() for c in copies}
    return [i for i, _ in plan.nodes if i not in added and not (plan.tensors[i].op == "NONE" and plan.src[i])]
