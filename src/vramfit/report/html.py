"""Results as HTML: a fragment for notebooks, and a page that needs nothing but itself.

Everything a model or a caller named is escaped. No script, no font, no address: a page can be mailed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from ..comparison import Choice, Comparison
from ..estimates import DeviceEstimate
from ..foreign import printable
from ..solve import Plan
from ..units import format_bytes, format_mib
from . import comparisons, grids, plans
from .svg import Bar, Point, bars, scatter

__all__ = ["fragment", "page"]

STYLE: Final = """
.vramfit{--ink:#1a1a1a;--paper:#fff;--faint:#6b6b6b;--rule:#d0d0d0;--weights:#0072b2;--context:#e69f00;
--compute:#009e73;--limit:#d55e00;--g3:#cc79a7;color:var(--ink);background:var(--paper);
font:14px/1.5 system-ui,sans-serif;max-width:62rem;padding:.5rem}
@media(prefers-color-scheme:dark){.vramfit{--ink:#e8e8e8;--paper:#16181c;--faint:#a0a0a0;--rule:#3c4048;
--weights:#56b4e9;--context:#f0b429;--compute:#2fc79a;--limit:#ff8a4c;--g3:#e39ac5}}
.vramfit h1{font-size:1.25rem;margin:.2rem 0}.vramfit p{margin:.4rem 0}
.vramfit table{border-collapse:collapse;margin:.8rem 0;font-variant-numeric:tabular-nums;color:inherit}
.vramfit th,.vramfit td{padding:.2rem .7rem;text-align:right;border-bottom:1px solid var(--rule);
background:none;color:inherit;white-space:nowrap}.vramfit .wide{overflow-x:auto}
.vramfit th{font-weight:600}.vramfit .name{text-align:left}.vramfit tr.front td:last-child{font-weight:600}
.vramfit .bad{color:var(--limit);font-weight:600}.vramfit .note{color:var(--faint);font-size:.9em}
.vramfit svg{width:100%;height:auto;max-width:760px;display:block}
.vramfit svg text{fill:var(--ink);font-size:13px}.vramfit svg .small{fill:var(--faint);font-size:11px}
.vramfit .weights,.vramfit .g0{fill:var(--weights)}.vramfit .context,.vramfit .g1{fill:var(--context)}
.vramfit .compute,.vramfit .g2{fill:var(--compute)}.vramfit .g3{fill:var(--g3)}
.vramfit .limit{stroke:var(--limit);stroke-width:3}.vramfit .axis{fill:none;stroke:var(--faint)}
.vramfit .grid{stroke:var(--rule);stroke-width:.5}.vramfit .ring{fill:none;stroke:var(--ink);stroke-width:1.5}
.vramfit .key{display:inline-block;width:.8em;height:.8em;margin:0 .35em 0 1em;vertical-align:-.05em}
.vramfit .key.weights{background:var(--weights)}.vramfit .key.context{background:var(--context)}
.vramfit .key.compute{background:var(--compute)}.vramfit .key.cap{width:.25em;background:var(--limit)}
"""
PAGE_STYLE: Final = """
html{color-scheme:light dark;background:#fff}@media(prefers-color-scheme:dark){html{background:#16181c}}
body{margin:0}.vramfit{margin:0 auto;padding:1.5rem}
"""
KEY: Final = (
    '<p class="note"><span class="key weights"></span>weights<span class="key context"></span>context'
    '<span class="key compute"></span>compute<span class="key cap"></span>free memory</p>'
)
TERMS: Final = (("weights", "model"), ("context", "context"), ("compute", "compute"))


def page(result: object) -> str:
    """One self-contained HTML document. Raises `TypeError` for what is no result."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>vramfit</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{PAGE_STYLE}</style></head>\n<body>{fragment(result)}</body></html>\n"
    )


def fragment(result: object) -> str:
    """What a notebook shows of a plan, a comparison or a sweep."""
    if isinstance(result, Plan):
        body = _plan(result)
    elif isinstance(result, Comparison):
        body = _comparison(result)
    else:
        body = _sweep(result)
    return f'<div class="vramfit"><style>{STYLE}</style>{"".join(body)}</div>'


def _plan(plan: Plan) -> Iterable[str]:
    estimate = plan.estimate
    yield f"<h1>{escape(plans.title(plan))}</h1>"
    yield f"<p{'' if plan.fits else _BAD}>{escape(plans.verdict(plan))}</p>"
    yield bars([_bar(d) for d in (*estimate.gpus, estimate.host) if d.total or d.free_bytes])
    yield KEY
    devices = [*estimate.gpus, estimate.host]
    rows = [["layers", *(str(d.layers) for d in devices)]]
    rows += [[name, *(format_mib(getattr(d, field)) for d in devices)] for name, field in TERMS]
    rows.append(["total", *(format_mib(d.total) for d in devices)])
    rows.append(["left", *(format_mib(d.left) if d.free_bytes else "" for d in devices)])
    yield _table(["MiB", *(d.name for d in devices)], rows)
    yield _note(plans.settings_line(plan))
    for warning in plan.warnings:
        yield f"<p{_BAD}>{escape(printable(warning))}</p>"
    if not estimate.exact:
        yield _note(f"Compute buffers are an upper bound, not exact: {estimate.compute_note}.")


def _bar(device: DeviceEstimate) -> Bar:
    sizes = [(name, getattr(device, field)) for name, field in TERMS]
    free = f" of {format_bytes(device.free_bytes)} free" if device.free_bytes else ""
    return Bar(
        printable(device.name),
        tuple((f"{name} {format_bytes(size)}", name, size) for name, size in sizes if size),
        device.free_bytes,
        f"{format_bytes(device.total)}{free}: " + ", ".join(f"{n} {format_bytes(s)}" for n, s in sizes),
    )


def _comparison(comparison: Comparison) -> Iterable[str]:
    yield f"<h1>{escape(comparisons.title(comparison))}</h1>"
    fitting = [c for c in comparison.choices if c.fits]
    groups = list(dict.fromkeys(comparisons.cache_name(c) for c in fitting))
    if fitting:
        points = [_point(c, groups) for c in fitting]
        yield scatter(points, "bits per weight", "largest context in tokens", groups)
        yield _note(
            "Ringed points are on the front: no other measured choice is as good in all and better in one."
        )
    rows = [comparisons.cells(c) for c in comparison.choices]
    classes = ["front" if c.on_front else "" for c in comparison.choices]
    yield _table(comparisons.HEAD, rows, names=2, classes=classes)
    for note in comparisons.notes(comparison):
        yield _note(note)


def _point(choice: Choice, groups: Sequence[str]) -> Point:
    cache = comparisons.cache_name(choice)
    name = f"{choice.file_type}, cache {cache}: {choice.n_ctx:,} tokens"
    return Point(choice.bits_per_weight, choice.n_ctx, groups.index(cache), name, choice.on_front)


def _sweep(result: object) -> Iterable[str]:
    from ..sweeps import Sweep

    if not isinstance(result, Sweep):
        raise TypeError(f"{type(result).__name__} is no result that vramfit shows")
    yield f"<h1>{escape(grids.title(result))}</h1>"
    yield f"<p>{escape(grids.size(result))}</p>"
    if found := grids.rows(result):
        yield _table(grids.HEAD, found, names=grids.NAMES)
    yield _note(grids.what(result))


_BAD: Final = ' class="bad"'


def _note(text: str) -> str:
    return f'<p class="note">{escape(printable(text))}</p>'


def _table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    names: int = 1,
    classes: Sequence[str] | None = None,
) -> str:
    """A table whose first `names` columns are words, the others numbers."""

    def line(tag: str, cells: Sequence[str], kind: str = "") -> str:
        inside = (
            f"<{tag}{' class=name' if i < names else ''}>{escape(printable(cell))}</{tag}>"
            for i, cell in enumerate(cells)
        )
        return f"<tr{f' class={kind}' if kind else ''}>{''.join(inside)}</tr>"

    kinds = classes or [""] * len(rows)
    body = "".join(line("td", row, kind) for row, kind in zip(rows, kinds, strict=True))
    return f'<div class="wide"><table><thead>{line("th", head)}</thead><tbody>{body}</tbody></table></div>'
