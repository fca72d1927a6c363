"""Write the bounds of a plan's speed: a paragraph, rows of a table, JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .._base.units import format_bytes
from .._planner.bounds import Speed, Term
from .look import PLAIN, Look
from .tables import render_table

if TYPE_CHECKING:
    from .schema import SpeedJson

__all__ = ["bounds_words", "speed_as_schema", "speed_rows", "speed_sentence", "speed_text"]

HEAD: Final = ("for each token", "weights", "cache when full", "GB/s", "ms", "ms when full")


def speed_text(speed: Speed, look: Look = PLAIN) -> str:
    """Show the bounds, and their terms as a table."""
    head, *rows = speed_rows(speed)
    return "\n\n".join((look.paragraph(speed_sentence(speed)), render_table(head, rows, look=look)))


def speed_sentence(speed: Speed) -> str:
    """Say the bounds, what they rest on, and what they leave out, in one paragraph."""
    said = bounds_words(speed)
    if not said:
        return f"No bound for the speed: {_unknown(speed)}."
    terms = [
        f"{t.device} {format_bytes(t.weights)} at {t.gbs:g} GB/s" for t in speed.terms if t.weights and t.gbs
    ]
    links = [f"{link.name} {link.token_seconds * 1000:.3g} ms" for link in speed.links]
    return (
        f"Speed: {said}. Upper bounds, no forecast: they count what has to be read for a token"
        f" ({', '.join([*terms, *links])}) and {_computed(speed)}.{_proposed(speed)}"
    )


def bounds_words(speed: Speed) -> str:
    """Name the rates that no engine passes, in words; "" where none is known."""
    parts = []
    if speed.decode is not None:
        reads = speed.decode_full is not None and any(t.cache for t in speed.terms)
        full = f" ({_number(speed.decode_full or 0)} after {speed.n_ctx:,})" if reads else ""
        parts.append(f"{_number(speed.decode)} tokens/s decoding{full}")
    if speed.prompt is not None:
        parts.append(f"{_number(speed.prompt)} tokens/s reading a prompt in batches of {speed.n_ubatch}")
    return f"at most {', '.join(parts)}" if parts else ""


def _computed(speed: Speed) -> str:
    if any(t.flops and t.tflops is None for t in speed.terms):
        return "not computing, which is what limits a prompt and whose rate the catalogue does not know"
    return "what has to be computed"


def _proposed(speed: Speed) -> str:
    """Say what speculation does to the bounds; "" without it."""
    if speed.n_tokens == 1 or speed.decode is None:
        return ""
    return f" Each pass is taken to give {speed.n_tokens} tokens, as if all that is proposed were right; proposing is not counted."


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _unknown(speed: Speed) -> str:
    why = [m for m in speed.missing if "bandwidth" in m] or ["nothing is known to be read"]
    host = any(t.device == "host" and t.works and t.gbs is None for t in speed.terms)
    hint = "; --host-bandwidth GB/S names it" if host else ""
    return " and ".join(why) + hint


def speed_rows(speed: Speed) -> list[list[str]]:
    """List what each device reads for a token and how long that takes; a head, then a row for each that works."""
    rows = [list(HEAD)]
    rows += [
        [t.device, format_bytes(t.weights), format_bytes(t.cache), f"{t.gbs:g}" if t.gbs else "", _ms(t, t.weights),
         _ms(t, t.weights + t.cache)]
        for t in speed.terms
        if t.works
    ]  # fmt: skip
    rows += [[link.name, "", "", "", *[f"{link.token_seconds * 1000:.3g}"] * 2] for link in speed.links]
    return rows


def _ms(term: Term, n_bytes: int) -> str:
    seconds = term.seconds(n_bytes)
    return "" if seconds is None else f"{seconds * 1000:.3g}"


def speed_as_schema(speed: Speed) -> SpeedJson:
    """Make the pydantic object of the bounds."""
    from .schema import SpeedJson, SpeedLinkJson, SpeedTermJson

    return SpeedJson(
        decode=speed.decode,
        decode_full=speed.decode_full,
        prompt=speed.prompt,
        n_ctx=speed.n_ctx,
        n_ubatch=speed.n_ubatch,
        pipelined=speed.pipelined,
        terms=[
            SpeedTermJson(device=t.device, weights=t.weights, cache=t.cache, batch=t.batch, flops=t.flops, gbs=t.gbs, tflops=t.tflops)
            for t in speed.terms
            if t.works
        ],
        links=[
            SpeedLinkJson(name=x.name, token_seconds=x.token_seconds, batch_seconds=x.batch_seconds)
            for x in speed.links
        ],
        missing=list(speed.missing),
        n_tokens=speed.n_tokens,
    )  # fmt: skip
