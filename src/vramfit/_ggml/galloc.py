"""Replay the graph allocator: how many bytes the tensors of a scheduled graph take on each backend.

In: a `Schedule`. Out: `int` bytes of each backend's compute buffer, and on request the tensors that
are alive when it is fullest. A replay of the graph allocator, ggml/src/ggml-alloc.c; line numbers
below are of that file. The high-water mark of a walk is what the engine allocates; a context is
reserved with several graphs, and a buffer is replaced when a graph needs more (`reserve`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from .backends import Backend
from .graph import INPUT, NONE, OUTPUT, Tensor
from .sched import Schedule, node_of

__all__ = ["Arena", "Live", "Walk", "allocate", "fullest", "held", "largest", "most_alive", "reserve"]

# Operations that may write over a source (ggml_op_can_inplace, 20-52).
_IN_PLACE: Final = frozenset(
    [
        "FILL",
        "SCALE",
        "DIAG_MASK_ZERO",
        "DIAG_MASK_INF",
        "ADD",
        "ADD_ID",
        "ADD1",
        "SUB",
        "MUL",
        "DIV",
        "SQR",
        "SQRT",
        "LOG",
        "UNARY",
        "ROPE",
        "ROPE_BACK",
        "SILU_BACK",
        "RMS_NORM",
        "RMS_NORM_BACK",
        "CLAMP",
        "SOFT_MAX",
        "SOFT_MAX_BACK",
    ]
)
# Attention's scores become probabilities where they are, in every graph that the engine's helper makes (build_attn_mha).
_SURELY_IN_PLACE: Final = frozenset({"SOFT_MAX"})
_MAX_CHUNKS: Final = 16  # GGML_VBUFFER_MAX_CHUNKS
_ENDLESS: Final = 1 << 62
# An address is chunk * _CHUNK + offset, so that it stays one int.
_CHUNK: Final = 1 << 63


class Live(NamedTuple):
    """A tensor that is alive when a buffer is fullest, and the bytes it takes there."""

    name: str
    op: str
    n_bytes: int


class _Chunk:
    """One buffer: its free blocks by address, the last of them open-ended up to its capacity."""

    __slots__ = ("base", "capacity", "peak", "sizes", "starts")

    def __init__(self, base: int, capacity: int) -> None:
        self.base = base
        self.capacity = capacity
        self.starts = [base]
        self.sizes = [capacity]
        self.peak = 0

    @property
    def taken(self) -> int:
        """Count the bytes that are not free."""
        return self.capacity - sum(self.sizes)

    def best_fit(self, size: int) -> int:
        """Find the smallest block that holds `size` bytes, except the last; of equals the later; -1 for none (223-233)."""
        best, least = -1, _ENDLESS
        sizes = self.sizes
        for i in range(len(sizes) - 1):
            if size <= sizes[i] <= least:
                best, least = i, sizes[i]
        return best

    def take(self, i: int, size: int) -> int:
        """Cut `size` bytes from the front of block `i`."""
        address = self.starts[i]
        if self.sizes[i] == size:
            del self.starts[i], self.sizes[i]
        else:
            self.starts[i] += size
            self.sizes[i] -= size
        end = address + size - self.base
        if end > self.peak:
            self.peak = end
        return address

    def free(self, address: int, size: int) -> None:
        """Free a block: merge it into the first free block that touches it, else list it as a new one (328-371).

        Literal: a block of no bytes can touch two free blocks or lie between them, and the engine
        takes the first that it meets.
        """
        starts, sizes = self.starts, self.sizes
        end = address + size
        for i, start in enumerate(starts):
            if start + sizes[i] == address:
                sizes[i] += size
                if i + 1 < len(starts) and starts[i + 1] == start + sizes[i]:
                    sizes[i] += sizes[i + 1]
                    del starts[i + 1], sizes[i + 1]
                return
            if start == end:
                starts[i] = address
                sizes[i] += size
                return
        i = 0
        while i < len(starts) and starts[i] < address:
            i += 1
        starts.insert(i, address)
        sizes.insert(i, size)


class Arena:
    """The memory of one backend: chunks of at most `max_buffer` bytes, one endless chunk if that is 0.

    Sizes passed in must be padded to the backend's alignment. Source: ggml_dyn_tallocr (97-392).
    """

    __slots__ = ("chunks", "extra", "max_buffer")

    def __init__(self, max_buffer: int = 0, extra: int = 0) -> None:
        self.max_buffer = max_buffer
        self.extra = extra
        self.chunks: list[_Chunk] = []

    @property
    def peaks(self) -> tuple[int, ...]:
        """List the high-water mark of each chunk in bytes, with what its buffer adds."""
        return tuple(c.peak + self.extra if self.extra and c.peak else c.peak for c in self.chunks)

    @property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """List the free blocks as (address, size) in bytes, by address."""
        return tuple(b for c in self.chunks for b in zip(c.starts, c.sizes, strict=True))

    def alloc(self, size: int) -> int:
        """Take `size` bytes and return their address."""
        chosen, block = None, -1
        for chunk in self.chunks:
            i = chunk.best_fit(size)
            if i >= 0:
                chosen, block = chunk, i
        if chosen is None:
            chosen, block = self._open_end(size), -1
        return chosen.take(block if block >= 0 else len(chosen.sizes) - 1, size)

    def free(self, address: int, size: int) -> None:
        """Give back what `alloc` returned, or the tail of it."""
        self.chunks[address // _CHUNK].free(address, size)

    def _open_end(self, size: int) -> _Chunk:
        """Choose the chunk whose last, open-ended block fits best, or open a new one (235-262)."""
        best: _Chunk | None = None
        reuse = -_ENDLESS
        for chunk in self.chunks:
            if not chunk.sizes or chunk.sizes[-1] < size:
                continue
            spare = chunk.peak - (chunk.starts[-1] - chunk.base) - size
            if (reuse < 0 and spare > reuse) or 0 <= spare < reuse:
                best, reuse = chunk, spare
        return best or self._new_chunk(size)

    def _new_chunk(self, size: int) -> _Chunk:
        """Open a chunk: of `max_buffer` bytes, larger for a tensor that is larger, and endless if it is the last (158-178)."""
        n = len(self.chunks)
        unlimited = not self.max_buffer or n == _MAX_CHUNKS - 1
        chunk = _Chunk(n * _CHUNK, _ENDLESS if unlimited else max(size, self.max_buffer))
        self.chunks.append(chunk)
        return chunk


OnAlloc = Callable[["Walk", int], None]


class Walk:
    """Walks a schedule once, and places and frees its tensors as the allocator does (ggml_gallocr_alloc_graph_impl, 701-810)."""

    __slots__ = (
        "address",
        "arenas",
        "backends",
        "children",
        "flags",
        "loose",
        "on_alloc",
        "owner",
        "plan",
        "reusing",
        "size",
        "src",
        "tensors",
        "views",
    )

    def __init__(self, plan: Schedule, on_alloc: OnAlloc | None = None) -> None:
        n = len(plan.tensors)
        self.plan = plan
        self.backends = plan.backends
        self.tensors = plan.tensors
        self.src = plan.src
        self.flags = plan.flags
        self.arenas = [Arena(b.max_buffer, b.buffer_extra) for b in plan.backends]
        self.loose = [t.view == NONE and t.home == NONE for t in plan.tensors]  # takes memory of its own
        self.children = [0] * n  # readers to come
        self.views = [0] * n  # views that still have readers
        self.owner = [NONE] * n  # the backend while a tensor holds memory
        self.address = [0] * n
        self.size = [0] * n
        self.on_alloc = on_alloc
        self.reusing: frozenset[str] = _IN_PLACE if plan.in_place else _SURELY_IN_PLACE

    def begin(self) -> None:
        """Place the tensors that must exist before the first node."""
        for i, backend in self.plan.leafs:
            self._place(i, backend)
        self._count()

    def advance(self, start: int, end: int) -> None:
        """Walk the nodes at [`start`, `end`) in order: place each, then free what is read no more (753-810)."""
        src, owner, loose = self.src, self.owner, self.loose
        children, views = self.children, self.views
        for i, backend in self.plan.nodes[start:end]:
            sources = src[i]
            for s in sources:
                if owner[s] == NONE and loose[s]:
                    self._place(s, backend)
            if owner[i] == NONE and loose[i]:
                self._place(i, backend)
            for s in sources:
                children[s] -= 1
                if not children[s] and not views[s]:
                    self._release(s)

    def run(self) -> Walk:
        """Walk the whole graph."""
        self.begin()
        self.advance(0, len(self.plan.nodes))
        return self

    def _count(self) -> None:
        """Count readers and views, and place the inputs that the caller fills in first (719-751)."""
        tensors, flags, children, views = self.tensors, self.flags, self.children, self.views
        for i, backend in self.plan.nodes:
            t = tensors[i]
            # A view without an op is a dependency that the scheduler added: it reads nothing.
            if t.view != NONE and t.op != "NONE":
                views[t.view] += 1
            if flags[i] & INPUT:
                self._place(i, backend)
            for s in self.src[i]:
                children[s] += 1
                if flags[s] & INPUT:
                    self._place(s, backend)

    def _place(self, i: int, backend: int) -> None:
        """Give tensor `i` memory, unless it has some (ggml_gallocr_allocate_node, 597-669)."""
        if self.owner[i] != NONE or not self.loose[i]:
            return
        t = self.tensors[i]
        if t.op in self.reusing and self._reuse(i, t):
            return
        size = self.bytes_of(i, self.backends[backend])
        self.owner[i] = backend
        self.size[i] = size
        self.address[i] = self.arenas[backend].alloc(size)
        if self.on_alloc is not None:
            self.on_alloc(self, backend)

    def _reuse(self, i: int, t: Tensor) -> bool:
        """Take over the memory of a source that nobody else reads (607-656); the rest of it is freed.

        The engine would take a view's root, but a view owns nothing, so that never happens.
        """
        for s in self.src[i]:
            backend = self.owner[s]
            if backend == NONE or self.flags[s] & OUTPUT or self.children[s] != 1 or self.views[s]:
                continue
            parent = self.tensors[s]
            if parent.type is not t.type or parent.ne != t.ne or parent.nb != t.nb:
                continue
            size = self.bytes_of(i, self.backends[backend])
            self.owner[s], self.owner[i] = NONE, backend
            self.address[i], self.size[i] = self.address[s], size
            if self.size[s] > size:
                self.arenas[backend].free(self.address[s] + size, self.size[s] - size)
            return True
        return False

    def bytes_of(self, i: int, backend: Backend) -> int:
        """Count the bytes that tensor `i` takes in its backend's buffer, padded to the alignment."""
        if self.plan.sizes is not None:
            return self.plan.sizes(i, backend)
        t = self.tensors[i]
        if t.op in backend.scratch:
            i = self.plan.answers.get(i, i)
            size = backend.node_bytes(node_of(i, self.tensors, self.src[i]))
        else:
            size = backend.tensor_bytes(t)
        step = backend.alignment
        return (size + step - 1) // step * step

    def _release(self, i: int) -> None:
        """Free a tensor with no readers left, or the tensor that it was the last to view (783-808)."""
        root = self.tensors[i].view
        if root != NONE:
            self.views[root] -= 1
            if self.views[root] or self.children[root]:
                return
            i = root
        backend = self.owner[i]
        if backend != NONE and not self.flags[i] & OUTPUT:
            self.owner[i] = NONE
            self.arenas[backend].free(self.address[i], self.size[i])


def allocate(plan: Schedule) -> tuple[tuple[int, ...], ...]:
    """Allocate one graph: bytes of each chunk of each backend's compute buffer, the CPU last."""
    return tuple(arena.peaks for arena in Walk(plan).run().arenas)


def largest(plan: Schedule) -> tuple[int, ...]:
    """Find the size in bytes of the largest tensor that each backend's compute buffer ever holds."""
    most = [0] * len(plan.backends)
    walk = Walk(plan)
    for i, at in {*plan.leafs, *plan.nodes}:
        if walk.loose[i]:
            most[at] = max(most[at], walk.bytes_of(i, plan.backends[at]))
    return tuple(most)


def reserve(plans: Sequence[Schedule]) -> tuple[int, ...]:
    """Reserve for `plans` one after the other: bytes of each backend's compute buffer afterwards, the CPU last.

    A plan that is given again (contexts reserve for a prompt twice) is walked once.
    """
    walked = {plan: allocate(plan) for plan in dict.fromkeys(plans)}
    return held([walked[plan] for plan in plans])


def held(needs: Sequence[Sequence[tuple[int, ...]]]) -> tuple[int, ...]:
    """Sum up the bytes of each backend's buffer after reservations that need these chunks (see `allocate`).

    A buffer is replaced when any of its chunks must grow (ggml_gallocr_reserve_n_impl, 906-953).
    """
    buffers: list[tuple[int, ...]] = [()] * len(needs[0]) if needs else []
    for need in needs:
        for b, chunks in enumerate(need):
            now = buffers[b] + (0,) * len(chunks)
            if any(n > now[c] for c, n in enumerate(chunks)):
                buffers[b] = chunks
    return tuple(map(sum, buffers))


def most_alive(plan: Schedule) -> tuple[int, ...]:
    """Find the most bytes that tensors of one graph hold at once on each backend: a lower bound of its buffer, without gaps."""
    most = [0] * len(plan.backends)

    def look(walk: Walk, where: int) -> None:
        now = sum(chunk.taken for chunk in walk.arenas[where].chunks)
        if now > most[where]:
            most[where] = now

    Walk(plan, look).run()
    return tuple(most)


def fullest(plans: Sequence[Schedule], backend: int) -> tuple[Live, ...]:
    """List the tensors alive on `backend` when its buffer first reaches its high-water mark, largest first.

    Of several plans it is the one that needs most. The sum can stay below the mark: the rest is gaps.
    """
    plan = max(plans, key=lambda p: sum(allocate(p)[backend]))
    peak = 0
    live: tuple[Live, ...] = ()

    def look(walk: Walk, where: int) -> None:
        nonlocal peak, live
        now = sum(walk.arenas[backend].peaks)
        if where == backend and now > peak:
            peak = now
            alive = [i for i, owner in enumerate(walk.owner) if owner == backend and walk.size[i]]
            alive.sort(key=lambda i: -walk.size[i])
            live = tuple(Live(plan.tensors[i].name, plan.tensors[i].op, walk.size[i]) for i in alive)

    Walk(plan, look).run()
    return live
