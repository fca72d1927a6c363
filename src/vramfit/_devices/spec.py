"""Read the words of `--gpus` as `Gpu`s: "2x4090", "24GiB", "3090ti:22000MiB", "m3-ultra-512gb", "none"."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from .._base.errors import GpuError, shown
from .catalogue import MIB, Card, all_cards, rules
from .drivers import facts_of, is_backend_word
from .machines import settle, split_host
from .names import versions
from .noun import MAX_GPUS, Gpu, check_count

__all__ = ["all_gpus", "from_card", "parse_gpus", "select_gpus"]

_COUNT: Final = re.compile(r"\s*(\d{1,2})\s*[x×*]\s*(?=\S)(.*)", re.IGNORECASE | re.DOTALL)
_SIZE: Final = re.compile(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*(GiB|GB|G|MiB|MB)\s*", re.IGNORECASE)
LEAST_MIB: Final = 256  # below, a bare number is more likely to be GiB
_NOTHING: Final = frozenset({"none", "cpu"})
_GROUPS: Final[dict[str, Callable[[Card, Gpu], bool]]] = {
    "nvidia": lambda card, gpu: card.vendor == "nvidia",
    "amd": lambda card, gpu: card.vendor == "amd",
    "intel": lambda card, gpu: card.vendor == "intel",
    "apple": lambda card, gpu: card.vendor == "apple",
    "desktop": lambda card, gpu: not gpu.built_in,
    "laptop": lambda card, gpu: "laptop" in card.name.lower(),
    "jetson": lambda card, gpu: "jetson" in card.name.lower(),
}
_EXAMPLE: Final = "such as 3090ti, 2x4090, 24GiB or 3090ti:22000MiB"


def parse_gpus(
    spec: Gpu | str | Sequence[str | Gpu], *, main: str | None = None, link: str | float | None = None
) -> tuple[Gpu, ...]:
    """Read names of cards such as "2x4090,3090ti:22GiB", in order; "none" or "cpu" names no card.

    A string holds items behind commas; a sequence holds strings and ready `Gpu`s. An item is
    [COUNT x] CARD [: BACKEND] [: FREE], CARD a name of the catalogue or a size, BACKEND one that the card runs under
    ("hip", "vulkan") or a driver of Vulkan ("radv"), as in "7900xtx:radv:22GiB". GB and MB mean GiB and MiB,
    as they do on the box of a card; a bare number as FREE counts MiB. Of a card with several memory sizes the
    smallest that can have that much free is taken, of several drivers the usual one under Linux; `Gpu.assumed` then says so.

    A card of another machine is MACHINE/ITEM, MACHINE a name or an address, with a port or without; `main` is the
    machine that runs the engine, `link` the speed of the network (see `machines.settle`). Such cards come first, as
    the engine has them.

    Raises `GpuError` for an unknown card, a malformed item, more free memory than the
    card has, a machine that no card is in, or more cards than the engine takes.
    """
    return check_count(settle(_items(spec), main, link))


def _items(spec: Gpu | str | Sequence[str | Gpu]) -> list[Gpu]:
    if isinstance(spec, Gpu):
        return [spec]
    if not isinstance(spec, (str, Sequence)) or isinstance(spec, (bytes, bytearray)):
        raise GpuError(f"{shown(spec)} is not a list of cards; give names {_EXAMPLE}")
    items: list[Gpu] = []
    parts = spec.split(",") if isinstance(spec, str) else spec
    for part in parts:
        if isinstance(part, Gpu):
            items.append(part)
        elif not isinstance(part, str):
            raise GpuError(f"{shown(part)} is not a card; give a name {_EXAMPLE}, or a Gpu")
        elif isinstance(spec, str):
            items += _parse_item(part, alone=len(parts) == 1)
        else:
            items += _items(part)
    check_count(items)
    return items


def _parse_item(item: str, alone: bool) -> list[Gpu]:
    host, item = ("", item) if _is_slashed(item) else split_host(item)
    if host:
        return [replace(gpu, host=host) for gpu in _processor(item) or _parse_item(item, alone=False)]
    if item.strip().lower() in _NOTHING:
        if alone:
            return []
        raise GpuError(f"{item.strip()!r} cannot be combined with other cards")
    count = 1
    if match := _COUNT.fullmatch(item):
        count, item = int(match[1]), match[2]
        if not 1 <= count <= MAX_GPUS:
            raise GpuError(f"{count} x {item.strip()}: give 1 to {MAX_GPUS} cards")
    name, *words = item.split(":")
    if not name.strip():
        raise GpuError(f"{item.strip()!r} names no card; give names {_EXAMPLE}")
    backend = words.pop(0).strip().lower() if words and is_backend_word(words[0].strip().lower()) else None
    free_bytes = _parse_free(":".join(words), item) if words else None
    size = _SIZE.fullmatch(name)
    gpu = _anonymous(name, free_bytes, backend) if size else _named(name, free_bytes, backend)
    return [gpu] * count


def _is_slashed(item: str) -> bool:
    """Whether it is a card with a slash in its own name, such as "Instinct MI50/MI60"."""
    if "/" not in item:
        return False
    name = item.partition(":")[0].rpartition("x ")[2].strip().lower()
    named = (n.lower() for card in all_cards() for n in (card.id, card.name, *card.aliases) if "/" in n)
    return any(n in (name, name.removeprefix("amd ")) or n.startswith(f"{name} ") for n in named)


def _processor(item: str) -> list[Gpu]:
    """Read "cpu:64GiB", which a machine without a card offers: its rpc-server computes in its own memory."""
    name, colon, free = item.partition(":")
    if name.strip().lower() != "cpu":
        return []
    if not colon:
        raise GpuError(f"{item.strip()!r}: say how much memory is free there, such as cpu:64GiB")
    size = _parse_free(free, item)
    return [Gpu(name="CPU", total_bytes=size, free_bytes=size, backend="cpu")]


def _parse_free(text: str, item: str) -> int:
    """Read free memory as bytes; a bare number counts MiB, as the engine and the drivers' tools have it."""
    bare = text.strip()
    if not (bare.isascii() and bare.isdecimal()):
        return _parse_size(text, item)
    if len(bare) > 9 or int(bare) < LEAST_MIB:
        raise GpuError(f"{item.strip()!r}: {bare} MiB, or GiB? Give a unit, as in 22GiB or 22000MiB")
    return int(bare) * MIB


def _named(name: str, free_bytes: int | None, backend: str | None) -> Gpu:
    """Find the smallest card of that name that can have so much free; add a sentence if there are larger ones."""
    known = versions(name)
    cards = [c for c in known if _most_mib(c) * MIB >= (free_bytes or 0)] or known[-1:]
    gpu = from_card(cards[0], free_bytes, backend)
    if len(cards) == 1:
        return gpu
    larger = " or ".join(f"{c.id} ({c.memory_gib} GB)" for c in cards[1:])
    said = (
        f"{name.strip()!r} is counted as the smallest of that name, {cards[0].name}; for another say {larger}"
    )
    return replace(gpu, assumed="; ".join(filter(None, (said, gpu.assumed))))


def _most_mib(card: Card) -> int:
    """Return the size on the box, or what a driver reports if that is more, in MiB."""
    return max((card.memory_gib or 0) * 1024, rules().total_mib(card) or 0)


def _parse_size(text: str, item: str) -> int:
    """Read a size as bytes, rounded down."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise GpuError(
            f"{item.strip()!r}: {text.strip()!r} is not a size; give one such as 22GiB or 22000MiB"
        )
    whole, _, part = match[1].partition(".")
    unit = MIB << 10 if match[2][0] in "gG" else MIB
    return int(whole + part) * unit // int("1" + "0" * len(part))


def _anonymous(name: str, free_bytes: int | None, backend: str | None) -> Gpu:
    """Make a card of a stated size: taken at the word, all of it free unless told otherwise."""
    facts = facts_of(None, backend, name.strip())[0] if backend else {}
    return Gpu(name=name.strip(), total_bytes=_parse_size(name, name), free_bytes=free_bytes, **facts)


def from_card(card: Card, free_bytes: int | None = None, backend: str | None = None) -> Gpu:
    """Make a `Gpu` of a catalogue's card, with the least memory that its driver is known to offer.

    A measured `free_bytes` may prove that the driver offers more: up to the size on the box. `backend`: a word of
    `drivers.backend_words`, for another backend or driver than the card's usual one.
    Raises `GpuError` beyond that, and where the card's memory is the system's and not known.
    """
    facts, granted = facts_of(card, backend or card.backend, card.id)
    total_mib = rules().total_mib(card)
    most = _most_mib(card) * MIB
    if total_mib is None and free_bytes is None:
        raise GpuError(f"{card.id} uses the system's memory; say how much is free, such as {card.id}:16GiB")
    if free_bytes is not None and most and free_bytes > most:
        raise GpuError(
            f"{card.id}:{free_bytes // MIB}MiB free is more than the card's {most // MIB} MiB; "
            f"for a modified board give its size instead, such as 48GiB:{free_bytes // MIB}MiB"
        )
    facts.setdefault(
        "compute_capability", card.compute_capability if facts["backend"] == card.backend else None
    )
    overhead = rules().context_mib(card._replace(backend=facts["backend"]), total_mib or 0) * MIB
    return Gpu(
        name=card.name,
        total_bytes=max((total_mib or 0) * MIB, free_bytes or 0),
        free_bytes=free_bytes,
        bandwidth_gbs=card.bandwidth_gbs,
        overhead_bytes=overhead if free_bytes is None and total_mib else 0,
        unified=card.unified,
        id=card.id,
        assumed=granted,
        **facts,
    )


def all_gpus() -> tuple[Gpu, ...]:
    """List every card of the catalogue whose memory is known, least memory first."""
    gpus = [from_card(c) for c in all_cards() if rules().total_mib(c) is not None]
    return tuple(sorted(gpus, key=lambda g: (g.total_bytes, g.name)))


def select_gpus(words: str) -> tuple[Gpu, ...]:
    """Select the cards that `words` names, each once: "nvidia", "amd desktop", "3090,5060ti,24GiB".

    An item is a group or several that all hold (nvidia, amd, intel, apple, desktop, laptop, jetson), or what
    `parse_gpus` takes; a name without a size means all cards of that name. Raises `GpuError` for anything else, and
    where nothing is left.
    """
    if not isinstance(words, str):
        raise GpuError(f"{words!r}: give words {', '.join(_GROUPS)}, or names of cards")
    found = dict.fromkeys(gpu for item in words.split(",") for gpu in _selected(item))
    if not found:
        raise GpuError(f"{words.strip()!r} leaves no card; groups are {', '.join(_GROUPS)}")
    return tuple(found)


def _selected(item: str) -> Sequence[Gpu]:
    groups = item.lower().split()
    if groups and all(word in _GROUPS for word in groups):
        known = {card.id: card for card in all_cards()}
        return [g for g in all_gpus() if all(_GROUPS[word](known[str(g.id)], g) for word in groups)]
    if ":" in item or _SIZE.fullmatch(item) or _COUNT.fullmatch(item):
        return _parse_item(item, alone=False)
    try:
        return [from_card(card) for card in versions(item)]
    except GpuError as e:
        raise GpuError(f"{e}; groups are {', '.join(_GROUPS)}") from None
