"""Remember what was worked out for a model, for the next time it is asked for.

In: a `Model`, a key, how to work it out. Out: what came of it. Threads may ask at once. A model is told from
others by identity, since comparing headers takes as long as asking again, and is not kept alive for it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar
from weakref import ref

__all__ = ["Memo"]

T = TypeVar("T")


class Memo(Generic[T]):
    """The last `most` answers that were asked for, each about one model. Answers must not hold the model."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = Lock()
        self._found: OrderedDict[tuple[int, Hashable], tuple[ref[object], T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._found)

    def get(self, model: object, key: Hashable, work_out: Callable[[], T]) -> T:
        """Return the remembered answer for `model` and `key`, else ask `work_out`; what raises is not remembered.

        It is called without the lock: threads that ask for the same at the same time may each do the work.
        """
        at = (id(model), key)
        with self._lock:
            known = self._found.get(at)
            if known is not None and known[0]() is model:  # else a model that is gone had this address
                self._found.move_to_end(at)
                return known[1]
        answer = work_out()
        with self._lock:
            self._found[at] = (ref(model), answer)
            self._found.move_to_end(at)
            while len(self._found) > self._most:
                self._found.popitem(last=False)
        return answer
