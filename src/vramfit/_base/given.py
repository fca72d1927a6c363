"""Give lower rooms functions of upper ones when the package is imported, so that nothing below looks up.

In: functions, from `vramfit/__init__.py`, the only place that knows all rooms. Out: calls of them. So results can show
themselves and a reference can stand for a model, and yet no arrow points back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

__all__ = ["call", "give"]

_GIVEN: Final[dict[str, Callable[[], Callable[..., Any]]]] = {}


def give(name: str, find: Callable[[], Callable[..., Any]]) -> None:
    """Let `call(name)` use what `find` returns; it is asked for at the first call, so that nothing is imported before."""
    _GIVEN[name] = find


def call(name: str, *args: Any, **options: Any) -> Any:
    """Call the function that was given as `name`, and return what it returns."""
    return _GIVEN[name]()(*args, **options)
