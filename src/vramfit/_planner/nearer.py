"""Of the splits that carry a context, one with little on other machines: what is near needs no network.

In: chains, which cards are of other machines, a context and a split that carries it. Out: a split that does, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .search import Chains, Split, largest, last_where

__all__ = ["nearer"]

_PARTS: Final = 64  # in which the room of other machines is given up


def nearer(chains: Chains, remote: Sequence[bool], n_ctx: int, split: Split) -> Split:
    """Give up as much of the room of the other machines as can be, to a 64th; `split` where nothing can."""
    if (
        chains.only is not None
        or all(remote)
        or not any(n for n, far in zip(split, remote, strict=True) if far)
    ):
        return split
    found = {0: split}

    def fits(parts: int) -> bool:
        room = [
            r * (_PARTS - parts) // _PARTS if far else r for r, far in zip(chains.room, remote, strict=True)
        ]
        best = largest(chains._replace(room=room), range(n_ctx, n_ctx + 1))
        if best is not None:
            found[parts] = best[1]
        return best is not None

    last_where(fits, 0, _PARTS)
    return found[max(found)]
