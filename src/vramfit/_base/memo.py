"""Remember what was worked out for a model, for the next time it is asked for.

In: a `Model`, a key, how to work it out. Out: what came of it. Threads may ask at once. A model is told from
others by identity, since comparing headers takes as long as asking again, and is not kept alive for it.
"""

from __future__ import annotations

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
        self._found: list[tuple[ref[object], Hashable, T]] = []  # the last one asked for is last

    def __len__(self) -> int:
        return len(self._found)

    def get(self, model: object, key: Hashable, work_out: Callable[[], T]) -> T:
        """Return the remembered answer for `model` and `key`, else ask `work_out`; what raises is not remembered.

        It is called without the lock: threads that ask for the same at the same time may each do the work.
        """
        with self._lock:
            for at, (known, its_key, answer) in enumerate(self._found):
                if known() is model and its_key == key:
                    self._found.append(self._found.pop(at))
                    return answer
        answer = work_out()
        with self._lock:
            alive = [x for x in self._found if x[0]() is not None]
            others = [x for x in alive if x[0]() is not model or x[1] != key]
            self._found = [*others, (ref(model), key, answer)][-self._most :]
        return answer
