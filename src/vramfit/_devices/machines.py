"""Which machine each card is in, and the order in which the engine lists cards of several.

In: cards as a person names them, each with its machine. Out: the same cards, those behind an rpc-server marked and
first, as the engine ranks them ("RPC servers at the front of the list", llama.cpp:275): server by server, then its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from .._base.errors import GpuError, shown
from .._base.matches import get_close_matches
from .noun import LEAST_LINK, MOST_LINK, Gpu, is_host

__all__ = ["Machine", "in_engine_order", "link_speed", "machines", "settle", "split_host"]

NOWHERE: Final = "none"  # as the machine that runs the engine: one without a card
_SPEED: Final = re.compile(r"\s*(\d{1,6}(?:\.\d{1,6})?)\s*([GMgm])(?:[bB]it|b)(?:/s|ps)\s*")
_BYTES: Final = re.compile(r"\s*(\d{1,6}(?:\.\d{1,6})?)\s*([GM])B(?:/s|ps)\s*")


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine of several, and the positions of its cards. `endpoint` is "" for the one that runs the engine."""

    name: str
    endpoint: str
    gpus: tuple[int, ...]


def split_host(item: str) -> tuple[str, str]:
    """Cut "mini/m2-ultra" into its machine and the rest; no machine where there is no slash. Raises `GpuError`."""
    host, slash, rest = item.partition("/")
    if not slash:
        return "", item
    host = host.strip().lower()
    if re.fullmatch(r"\d{1,2}\s*[x×*].+", host):
        count, name = re.split(r"\s*[x×*]\s*", host, maxsplit=1)
        raise GpuError(
            f"{item.strip()!r}: write the number behind the machine, {name}/{count}x{rest.strip()}"
        )
    if not is_host(host):
        raise GpuError(
            f"{item.strip()!r}: {host!r} is no machine; give MACHINE/CARD such as mini/3090ti or 192.168.1.5:50052/3090ti"
        )
    return host, rest


def settle(gpus: Sequence[Gpu], main: str | None = None, link: str | float | None = None) -> list[Gpu]:
    """Mark the cards of other machines than the one that runs the engine, and put all in the engine's order.

    Cards without a machine are where the engine runs. Where every card has one, it is `main`, or the first named;
    `main` "none": a machine without a card. `link` is the speed of the network, such as "10Gbit/s".
    Raises `GpuError` for a `main` that no card is in, or that is named beside cards without a machine.
    """
    rate = None if link is None else link_speed(link)
    here = _main(gpus, main)
    found = [replace(g, remote=(g.remote and main is None) or bool(g.host and g.host != here)) for g in gpus]
    if rate is not None:
        found = [replace(g, link_gbits=rate) if g.remote else g for g in found]
    return list(in_engine_order(found))


def _main(gpus: Sequence[Gpu], main: object) -> str:
    """The machine that runs the engine, "" where no card says its name."""
    hosts = list(dict.fromkeys(g.host for g in gpus if g.host))
    if main is None:  # cards that are said to be remote stay so, as when their list is read again
        named = all(g.host for g in gpus)
        return next((g.host for g in gpus if named and not g.remote), "")
    if not isinstance(main, str) or not main.strip():
        raise GpuError(f"main={shown(main)}: give the name of a machine, or none")
    name = main.strip().lower()
    if any(not g.host for g in gpus):
        raise GpuError(
            f"main={shown(main)}: cards without a machine are where the engine runs; name the machine of each, or leave main out"
        )
    if name != NOWHERE and name not in hosts:
        near = get_close_matches(name, hosts, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(hosts) or 'no machines'}"
        raise GpuError(
            f"main={shown(main)}: no card is in that machine; {hint} (none: a machine without a card)"
        )
    return name


def in_engine_order(gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """The cards of other machines first, machine by machine as they were named, then those where the engine runs.

    Raises `GpuError` where a machine is both, or holds a chip that shares its memory twice.
    """
    if not any(g.remote for g in gpus):
        return tuple(gpus)
    _check(gpus)
    servers = list(dict.fromkeys(g.endpoint for g in gpus if g.remote))
    ranks = {endpoint: rank for rank, endpoint in enumerate(servers)}
    return tuple(sorted(gpus, key=lambda g: ranks[g.endpoint] if g.remote else len(ranks)))


def _check(gpus: Sequence[Gpu]) -> None:
    here = {g.host for g in gpus if not g.remote}
    for g in gpus:
        if g.remote and g.host in here:
            raise GpuError(
                f"{g.host}: the engine runs there and an rpc-server as well; give all its cards the same remote"
            )
        if g.remote and g.unified and sum(x.endpoint == g.endpoint and x.unified for x in gpus) > 1:
            raise GpuError(f"{g.host}/{g.name}: named twice; a machine has one chip that shares its memory")


def machines(gpus: Sequence[Gpu]) -> tuple[Machine, ...]:
    """The machines that hold these cards, in the engine's order; none where all cards are where the engine runs."""
    if not any(g.remote for g in gpus):
        return ()
    found: dict[str, list[int]] = {}
    for i, g in enumerate(gpus):
        found.setdefault(g.endpoint, []).append(i)
    found.setdefault("", [])
    named = {"": next((g.host for g in gpus if g.host and not g.remote), "") or "this machine"}
    named |= {g.endpoint: g.host for g in gpus if g.remote}
    return tuple(Machine(named[end], end, tuple(at)) for end, at in found.items())


def link_speed(text: str | float) -> float:
    """Read a speed such as "1Gbit/s", "10GbE", "2.5Gb/s" or "1.2GB/s" as Gbit/s. Raises `GpuError`."""
    if isinstance(text, (int, float)) and not isinstance(text, bool) and LEAST_LINK <= text <= MOST_LINK:
        return float(text)
    words = text.strip().replace("GbE", "Gbit/s") if isinstance(text, str) else ""
    for pattern, bits in ((_BYTES, 8), (_SPEED, 1)):
        found = pattern.fullmatch(words)
        speed = float(found[1]) * bits / (1 if found[2] in "gG" else 1000) if found else 0
        if LEAST_LINK <= speed <= MOST_LINK:
            return speed
        if found:
            break
    raise GpuError(f"link={shown(text)}: give the speed of the network, such as 1Gbit/s, 2.5Gbit/s or 10GbE")
