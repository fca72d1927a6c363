"""Write what a plan leaves for the next model, and which context each model would give up for it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Final

from .._base.foreign import printable
from .._base.units import GIB, MIB, format_bytes
from .._planner.left import Left, leaves
from .._planner.plan import REQUEST, Plan
from .look import PLAIN, Look
from .tables import render_table

if TYPE_CHECKING:
    from .._planner.gives_up import GivesUp
    from .._planner.shared import SharedPlan
    from .schema import GivesUpJson, LeftJson

__all__ = [
    "TITLE",
    "given_up",
    "gives_up_as_schema",
    "gives_up_sentence",
    "leaves_sentence",
    "left_as_schema",
    "left_head",
    "left_rows",
    "left_text",
]

SHOWN: Final = 3  # cards that are named
NAME: Final = 60  # characters of a model's name
TITLE: Final = "The context that each model would come down to, the others keeping theirs:"
HEAD: Final = "next model, on one card"
NONE: Final = "—"
HOST: Final = "host"  # by the name that an estimate gives it


def leaves_sentence(plan: Plan | SharedPlan) -> str:
    """Say what is left for another model, card by card; "" where that is not known, or nothing fits."""
    found = leaves(plan)
    if not found:
        return ""
    counted = (
        " (the driver's context of its own process counted)" if any(x.process_bytes for x in found) else ""
    )
    words = _places([left for left in found if left.n_bytes >= MIB])
    if not words:
        return f"Leaves nothing for another model{counted}."
    return (
        f"Leaves {' and '.join(filter(None, (', '.join(words[:-1]), words[-1])))} for another model{counted}."
    )


def _places(found: Sequence[Left]) -> list[str]:
    """Name the cards that have most left, in their order, and the host."""
    cards = [left for left in found if left.name != HOST]
    named = sorted(cards, key=lambda left: -left.n_bytes)[:SHOWN]
    words = [f"{format_bytes(left.n_bytes)} on {printable(left.name)}" for left in cards if left in named]
    if more := len(cards) - len(named):
        words.append(f"no more on {more} other card{'s' * (more > 1)}")
    return words + [f"{format_bytes(left.n_bytes)} on the host" for left in found if left.name == HOST]


def gives_up_sentence(plan: Plan, size: int, found: GivesUp | None) -> str:
    """Say which context a plan would come down to, for another model of `size` bytes or for the one that was named."""
    if found is None:
        return f"No context of this model leaves {format_bytes(size)} on one card for another."
    if found.beside:
        other = f"Beside {printable(found.beside, NAME)} at {found.beside_ctx:,} tokens"
    else:
        other = f"For another model of {format_bytes(size)} on {_named(found.card)}"
    if found.n_ctx == plan.n_ctx:
        said = f"{other} the context stays at {found.n_ctx:,} tokens{_split(plan, found)}"
    else:
        asked = " asked for" if plan.limited_by == REQUEST else ""
        said = f"{other} the context{asked} would come down to {found.n_ctx:,} tokens{_split(plan, found)}"
    return said + ("." if found.proved else "; that no longer one fits was not proved.")


def none_beside_sentence(name: str, n_ctx: int) -> str:
    """Say that a model at its context fits beside no context of this one."""
    return f"{printable(name, NAME)} at {n_ctx:,} tokens does not fit beside any context of this model; --next-ctx asks about another."


def _named(card: str) -> str:
    return "the host" if card == HOST else printable(card)


def _split(plan: Plan, found: GivesUp) -> str:
    if found.tensor_split == plan.tensor_split or len(found.tensor_split) < 2:
        return ""
    return f", with --tensor-split {','.join(map(str, found.tensor_split))}"


def left_text(plan: SharedPlan, look: Look = PLAIN) -> str:
    """Show what several models leave for one more, and a table: the context that each would come down to by itself."""
    said = look.paragraph(leaves_sentence(plan))
    rows = left_rows(plan)
    if not rows:
        return said
    return "\n\n".join((said, look.paragraph(TITLE), render_table(left_head(plan), rows, look=look)))


def left_head(plan: SharedPlan) -> list[str]:
    """Name the columns of `left_rows`."""
    return [HEAD, *(printable(t.name, NAME) for t in plan.tenants)]


def left_rows(plan: SharedPlan) -> list[list[str]]:
    """List sizes of a next model with the context of every model (see `given_up`), as words."""
    return [
        [f"{size // GIB:,} GiB", *(NONE if n is None else f"{n:,}" for n in contexts)]
        for size, contexts in given_up(plan)
    ]


def given_up(plan: SharedPlan) -> list[tuple[int, list[int | None]]]:
    """List sizes of a next model in bytes, each twice the one before, with the context that each model would keep; until none can give as much."""
    from .._planner.gives_up import gives_up, next_size

    found, size, learned = list[tuple[int, "list[int | None]"]](), next_size(plan), dict[Hashable, Any]()
    while plan.loaded and any(given := gives_up(plan, size, learned=learned)):
        found.append((size, [x.n_ctx if x else None for x in given]))
        size *= 2
    return found


def left_as_schema(plan: Plan | SharedPlan) -> list[LeftJson]:
    """Make the pydantic objects of what is left, for each card and a known host."""
    from .schema import LeftJson

    return [LeftJson(name=x.name, n_bytes=x.n_bytes, process=x.process_bytes) for x in leaves(plan)]


def gives_up_as_schema(found: GivesUp) -> GivesUpJson:
    """Make the pydantic object of a context that leaves room for another model."""
    from .schema import GivesUpJson

    return GivesUpJson(
        size=found.size,
        n_ctx=found.n_ctx,
        card=found.card,
        tensor_split=list(found.tensor_split),
        beside=found.beside,
        beside_ctx=found.beside_ctx,
        proved=found.proved,
    )
