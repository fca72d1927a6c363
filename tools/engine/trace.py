"""The graphs an architecture builds, before the scheduler splits them.

    from tools.engine.trace import Tracer, to_graph, trace

    prompt, generation, last = trace("model.gguf", n_ctx=4096, flash_attn="on")   # the three reservations
    with Tracer("model.gguf", gpus_mib=[24576], n_ctx=4096) as tracer:
        tracer.passes                                                             # the same three
        tracer.graph(n_tokens=64, n_seqs=1, n_outputs=1)                          # and any other
    nouns = to_graph(prompt)                                                      # vramfit.graph.Graph

A graph is a `Dump`: plain tuples, ready for JSON (`json.dumps(dump)`) and cheap to make: a model of
thirty layers takes a few hundredths of a second. Settings are those of `load`. Nothing is reserved. Without
`gpus_mib` everything is at home on the CPU and automatic flash attention is resolved there; with one
device or more, homes and pins tell the devices. A failed assertion of
the engine raises Refused, too ("aborted: ...").
"""

from __future__ import annotations

import ctypes
import os
import pathlib
import struct
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from vramfit._ggml.graph import HOST, NONE

from .binding import engine
from .load import Context, Refused, complaint, load

if TYPE_CHECKING:
    from vramfit._ggml.graph import Graph

COMPUTE, WEIGHT, CACHE = 0, 1, 2
INPUT, OUTPUT = 1, 2  # of flags
_USAGES = {COMPUTE: "", WEIGHT: " weight", CACHE: " cache"}

# struct ggml_tensor (ggml.h): type, buffer, ne, nb, op, op_params, flags, src, view_src, view_offs, data, name
_TENSOR = struct.Struct("<i4xQ4q4Qi16ii10QQQQ64s16x")
# struct ggml_cgraph (ggml-impl.h): size, n_nodes, n_leafs, nodes, grads, grad_accs, leafs
_GRAPH = struct.Struct("<iii4xQQQQ")
_BUFFER_IS_WEIGHTS = 1  # GGML_BACKEND_BUFFER_USAGE_WEIGHTS


class Node(NamedTuple):
    """A tensor, with the fields of vramfit.graph.Tensor; `type` is a name."""

    name: str
    op: str
    type: str
    ne: tuple[int, int, int, int]
    nb: tuple[int, int, int, int]
    src: tuple[int, ...]
    view: int
    offset: int
    flags: int
    usage: int
    home: int
    pinned: int
    params: tuple[int, ...]  # all sixteen 32-bit words


class Dump(NamedTuple):
    """A graph: tensors, and the positions in it of the leafs and of the nodes in the engine's order."""

    tensors: list[Node]
    leafs: list[int]
    nodes: list[int]


class Tracer:
    """A context that shows its graphs. `passes` are the three reservations of its start."""

    def __init__(self, header: str | os.PathLike[str], gpus_mib: Sequence[int] = (), **settings: Any) -> None:
        self._seen: list[Dump] = []
        self._context: Context = load(header, gpus_mib, self._look, **settings)
        self.n_ctx = self._context.n_ctx
        self.passes = tuple(self._seen)

    def _look(self, address: int) -> None:
        self._seen.append(dump_at(address))

    def graph(self, n_tokens: int, n_seqs: int, n_outputs: int) -> Dump:
        """The graph of an ubatch; `n_tokens` is rounded up to a multiple of `n_seqs`."""
        self._seen.clear()
        if not engine().vf_graph(self._context.handle, n_tokens, n_seqs, n_outputs):
            raise Refused(complaint())
        return self._seen[-1]

    def adapted(self, *given: Any) -> tuple[Dump, ...]:
        """The reservations of the same context with adapters (`Context.adapt`)."""
        self._seen.clear()
        self._context.adapt(*given)
        return tuple(self._seen)

    def close(self) -> None:
        """Free model and context."""
        self._context.close()

    def __enter__(self) -> Tracer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def trace(header: str | os.PathLike[str], gpus_mib: Sequence[int] = (), **settings: Any) -> tuple[Dump, ...]:
    """The graphs of the three reservations: prompt, generation, prompt again. Raises Refused."""
    with Tracer(header, gpus_mib, **settings) as tracer:
        return tracer.passes


def to_graph(dump: Dump) -> Graph:
    """The same graph in the library's nouns."""
    sys.path.append(str(pathlib.Path(__file__).parents[2] / "src"))
    try:
        from vramfit._ggml.graph import Graph, Tensor
        from vramfit._ggml.types import BY_NAME
    finally:
        sys.path.pop()
    tensors = [
        Tensor(
            t.name,
            t.op,
            BY_NAME[t.type],
            t.ne,
            t.nb,
            t.src,
            t.view,
            t.offset,
            t.flags & (INPUT | OUTPUT),
            t.usage,
            t.home,
            t.pinned,
            t.params,
        )
        for t in dump.tensors
    ]
    return Graph(tensors, list(dump.leafs), list(dump.nodes))


def to_text(dump: Dump) -> str:
    """One line a tensor, for people and for comparing two graphs."""
    return "\n".join(line_of(dump, i) for i in range(len(dump.tensors))) + "\n"


def line_of(dump: Dump, i: int) -> str:
    """One tensor of a graph; its sources by their numbers."""
    t = dump.tensors[i]
    extents = "x".join(map(str, t.ne))
    line = f"{i} {t.op} {t.name!r} {t.type} {extents} nb={','.join(map(str, t.nb))}{_USAGES[t.usage]}"
    line += f" src={','.join(map(str, t.src))}" if t.src else ""
    line += f" view={t.view}+{t.offset}" if t.view != NONE else ""
    line += f" flags={t.flags}" if t.flags else ""
    line += f" home={t.home}" if t.home != NONE else ""
    line += f" pinned={t.pinned}" if t.pinned != NONE else ""
    line += f" params={_words(t.params)}" if any(t.params) else ""
    return line


def _words(params: tuple[int, ...]) -> str:
    """Without the zeros at the end."""
    while params and not params[-1]:
        params = params[:-1]
    return ",".join(map(str, params))


def dump_at(address: int) -> Dump:
    """The graph at an address of the engine."""
    _, n_nodes, n_leafs, nodes, _, _, leafs = _GRAPH.unpack(ctypes.string_at(address, _GRAPH.size))
    order = [*_pointers(leafs, n_leafs), *_pointers(nodes, n_nodes)]
    at = {p: i for i, p in enumerate(order)}
    raw = [_TENSOR.unpack(ctypes.string_at(p, _TENSOR.size)) for p in order]
    for fields in raw:  # what is only referred to
        for root in filter(None, (fields[38], *fields[28:38])):
            if root not in at:
                at[root] = len(order)
                order.append(root)
                raw.append(_TENSOR.unpack(ctypes.string_at(root, _TENSOR.size)))
    tensors = [_node(p, fields, at) for p, fields in zip(order, raw, strict=True)]
    return Dump(tensors, list(range(n_leafs)), list(range(n_leafs, n_leafs + n_nodes)))


def _pointers(array: int, n: int) -> tuple[int, ...]:
    return struct.unpack(f"<{n}Q", ctypes.string_at(array, 8 * n)) if n else ()


def _node(address: int, f: tuple[Any, ...], at: dict[int, int]) -> Node:
    place = engine().vf_place(address)
    usage, home, pin = place & 0xFF, place >> 8 & 0xFF, place >> 16
    return Node(
        name=f[41].split(b"\0", 1)[0].decode(),
        op=_name("ggml_op_name", f[10]),
        type=_name("ggml_type_name", f[0]),
        ne=(f[2], f[3], f[4], f[5]),
        nb=(f[6], f[7], f[8], f[9]),
        src=tuple(at[p] for p in f[28:38] if p),
        view=at[f[38]] if f[38] else NONE,
        offset=f[39],
        flags=f[27],
        usage=COMPUTE if not home else WEIGHT if usage == _BUFFER_IS_WEIGHTS else CACHE,
        home=(NONE, HOST, HOST)[home] if home < 3 else home - 3,  # plain or pinned: the CPU backend owns both
        pinned=(NONE, HOST)[pin] if pin < 2 else pin - 2,
        params=f[11:27],
    )


_NAMES: dict[tuple[str, int], str] = {}


def _name(function: str, number: int) -> str:
    key = (function, number)
    if key not in _NAMES:
        _NAMES[key] = getattr(engine(), function)(number).decode()
    return _NAMES[key]
