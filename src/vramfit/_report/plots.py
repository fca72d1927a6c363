"""Draw results as matplotlib figures, with the extra `plots`: `pip install 'gguf-vramfit[plots]'`.

In: a `Plan` or `SharedPlan`, a `Comparison` or a `Sweep`. Out: a figure that no window shows until asked. Colours are
Okabe and Ito's, which colour-blind people tell apart; lines and marks differ in shape as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from .._base.errors import SettingsError
from .._base.foreign import printable
from .._base.units import GIB
from .._planner.compare import Choice, Comparison
from .._planner.plan import Plan
from .palette import DARK, LIGHT, Palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .._planner.shared import SharedPlan
    from .._planner.sweep import Sweep

__all__ = ["FORMATS", "draw"]

FORMATS: Final = ("svg", "png", "pdf")
TERMS: Final = ("model", "context", "compute")
MARKS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
TICKS: Final = 8
LINE: Final = 1.12  # ratio of two divergences whose names do not overlap
DASHES: Final = ("-", "--", "-.", ":")
CURVES: Final = 8  # lines that one picture can hold
SAMPLES: Final = 33  # contexts of a plan's picture


def draw(result: object, *, dark: bool = False) -> Figure:
    """Draw a plan, of one model or of several, a comparison or a sweep.

    Plan: memory of each card against the context, stacked, with the capacity; of several models: memory of each device,
    stacked by model and then by term. Comparison: the largest context by file type, and the Pareto front. Sweep: memory
    left on the shortest card against the context.
    Raises `SettingsError` without matplotlib, and for a result with nothing to draw.
    """
    look = DARK if dark else LIGHT
    if isinstance(result, Plan):
        return _plan(result, look)
    if isinstance(result, Comparison):
        return _comparison(result, look)
    from .._planner.shared import SharedPlan
    from .._planner.sweep import Sweep

    if isinstance(result, SharedPlan):
        return _shared(result, look)
    if isinstance(result, Sweep):
        return _sweep(result, look)
    raise TypeError(f"{type(result).__name__} is not a result that vramfit draws")


def _axes(
    look: Palette, n: int, width: float, height: float, *, share: bool = False
) -> tuple[Figure, list[Axes]]:
    """Make a figure with `n` axes side by side."""
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise SettingsError("pictures need matplotlib: pip install 'gguf-vramfit[plots]'") from e
    figure = Figure(figsize=(width, height), layout="constrained", facecolor=look.paper)
    axes = list(figure.subplots(1, n, squeeze=False, sharex=share, sharey=share)[0])
    for each in axes:
        each.set_facecolor(look.paper)
        each.tick_params(colors=look.ink)
        each.grid(True, color=look.rule, linewidth=0.5)
        each.set_axisbelow(True)
        for spine in each.spines.values():
            spine.set_color(look.rule)
        for label in (each.xaxis.label, each.yaxis.label, each.title):
            label.set_color(look.ink)
    return figure, axes


def _legend(axes: Axes, look: Palette, **options: Any) -> None:
    axes.legend(facecolor=look.paper, edgecolor=look.rule, labelcolor=look.ink, fontsize="small", **options)


def _contexts(axes: Axes, most: int) -> None:
    """Set an x axis from 0 to `most` tokens, with ticks at the round numbers of this trade: 16k is 16,384."""
    step = 256
    while most / step > TICKS:
        step *= 2
    axes.set(xlabel="context (tokens)", xlim=(0, most))
    axes.set_xticks(range(0, most + 1, step))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1024:,g}k" if value else "0")


def _plan(plan: Plan, look: Palette) -> Figure:
    cards = [i for i, card in enumerate(plan.estimate.gpus) if card.total]
    if not cards:
        raise SettingsError("the plan uses no card: there is no capacity to draw")
    found = _around(plan)
    figure, axes = _axes(look, len(cards), 2 + 4 * len(cards), 4, share=True)
    for card, each in zip(cards, axes, strict=True):
        stacks = [found.columns[f"gpu{card}_{term}"] / GIB for term in TERMS]
        names = ["weights", "context", "compute"]
        if plan.estimate.gpus[card].company:
            stacks.append(_company(plan, card, found.columns["n_ctx"]) / GIB)
            names.append(" and ".join(c.kind for c in plan.estimate.company))
        each.stackplot(found.columns["n_ctx"], stacks, labels=names, colors=look.cycle, edgecolor=look.paper)
        free = plan.estimate.gpus[card].free_bytes
        each.axhline(free / GIB, color=look.limit, linewidth=2, label="free memory")
        each.axhline(
            (free - plan.margin_bytes) / GIB, color=look.limit, linestyle="--", label="less the margin"
        )
        each.axvline(plan.n_ctx, color=look.ink, linestyle=":", label=f"{plan.n_ctx:,} tokens")
        each.set(title=_label(plan.estimate.gpus[card].name), ylim=(0, None))
        _contexts(each, int(found.columns["n_ctx"].max()))
    axes[0].set_ylabel("GiB")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, labelcolor=look.ink, frameon=False)
    return figure


def _shared(plan: SharedPlan, look: Palette) -> Figure:
    if not plan.loaded:
        raise SettingsError("no model fits: there is nothing to draw")
    from .shared_plots import draw_devices, drawn_devices

    height = 1.6 + 0.5 * len(drawn_devices(plan)) + 0.1 * len(plan.loaded)
    figure, (axes,) = _axes(look, 1, 10, height)
    keys = draw_devices(plan, axes, look, _label)
    figure.legend(handles=keys, loc="outside lower center", ncols=3, labelcolor=look.ink, frameon=False)
    return figure


def _around(plan: Plan) -> Sweep:
    """Sweep the plan's own split and settings from the smallest context to somewhat beyond the planned one."""
    import numpy as np

    from .._company import alone
    from .._planner.sweep import sweep

    most = max(plan.n_ctx * 5 // 4, 1024)
    contexts = np.unique(np.linspace(256, most, SAMPLES).astype(np.int64) // 256 * 256)
    settings = replace(plan.settings, spec_type="none")
    return sweep(alone(plan.model), plan.gpus, settings, n_ctx=contexts, margin_bytes=plan.margin_bytes)


def _company(plan: Plan, card: int, contexts: Any) -> Any:
    """Bytes on a card of what is loaded beside the model, at a few of the contexts and straight between them."""
    import numpy as np

    from .._estimate.company import company_bytes
    from .._estimate.estimate import estimate

    few = np.unique(contexts[np.linspace(0, len(contexts) - 1, 5).astype(np.int64)])
    sizes = [company_bytes(plan.model, plan.gpus, plan.settings, int(n), estimate).taken[card] for n in few]
    return np.interp(contexts, few, sizes)


def _comparison(comparison: Comparison, look: Palette) -> Figure:
    fitting = [c for c in comparison.choices if c.fits]
    if not fitting:
        raise SettingsError("no choice fits: there is nothing to draw")
    figure, (left, right) = _axes(look, 2, 12, 0.3 * len({c.file_type for c in fitting}) + 3)
    caches = list(dict.fromkeys((c.type_k, c.type_v) for c in fitting))
    for i, cache in enumerate(caches):
        group = [c for c in fitting if (c.type_k, c.type_v) == cache]
        style: dict[str, Any] = {"color": look.color(i), "marker": MARKS[i % CURVES], "linestyle": "none"}
        label = "/".join(dict.fromkeys(cache)) + " cache"
        left.plot([c.n_ctx for c in group], [c.file_type for c in group], label=label, **style)
        measured = [c for c in group if c.measure]
        right.plot([c.n_ctx for c in measured], [_kld(c) for c in measured], label=label, **style)
        _front(right, group, look, style["color"])
    _names(right, [c for c in measured if c.on_front], look)
    left.invert_yaxis()
    left.set_title("Largest context by quantization")
    right.set_title("Context against published quality loss")
    right.set(ylabel=f"KL divergence of {_measured_on(fitting)} (better above)", yscale="log")
    right.invert_yaxis()
    for axes in (left, right):
        _contexts(axes, max(c.n_ctx for c in fitting) * 9 // 8)
        _legend(axes, look)
    return figure


def _front(axes: Axes, group: Iterable[Choice], look: Palette, color: object) -> None:
    """Join and ring the choices of one cache type that are on the front."""
    chosen = sorted((c for c in group if c.on_front), key=lambda c: c.n_ctx)
    xs, ys = [c.n_ctx for c in chosen], [_kld(c) for c in chosen]
    axes.plot(xs, ys, color=color, linewidth=1)
    axes.plot(
        xs,
        ys,
        linestyle="none",
        marker="o",
        markersize=11,
        fillstyle="none",
        color=look.ink,
        markeredgewidth=0.8,
    )


def _names(axes: Axes, choices: Iterable[Choice], look: Palette) -> None:
    """Write file types beside their points, where there is room for one more line of text."""
    lowest = 0.0
    for c in sorted(choices, key=_kld):
        if _kld(c) < lowest * LINE:
            continue
        lowest = _kld(c)
        where: dict[str, Any] = {"xytext": (9, -3), "textcoords": "offset points"}
        axes.annotate(c.file_type, (c.n_ctx, lowest), color=look.ink, fontsize=8, **where)


def _kld(choice: Choice) -> float:
    assert choice.measure is not None
    return choice.measure.kld


def _measured_on(choices: Iterable[Choice]) -> str:
    return next((c.measure.model for c in choices if c.measure), "no model")


def _sweep(result: Sweep, look: Palette) -> Figure:
    n_ctx = result.columns["n_ctx"].reshape(-1, result.shape[-1])
    left = result.columns["left"].reshape(n_ctx.shape) / GIB
    refused = result.columns["refused"].reshape(n_ctx.shape)[:, 0] > 0
    curves = [i for i in range(len(n_ctx)) if not refused[i]]
    if not curves:
        raise SettingsError("every point was refused: there is nothing to draw")
    figure, (axes,) = _axes(look, 1, 9, 5)
    for i, row in enumerate(curves[:CURVES]):
        style: dict[str, Any] = {
            "color": look.color(i),
            "linestyle": DASHES[i % len(DASHES)],
            "marker": MARKS[i],
        }
        order = n_ctx[row].argsort()
        every = max(1, len(order) // 12)
        axes.plot(
            n_ctx[row][order], left[row][order], label=_label(_name(result, row)), markevery=every, **style
        )
    axes.axhline(result.margin_bytes / GIB, color=look.limit, linewidth=2, label="margin")
    shown = f" ({CURVES} of {len(curves)} combinations)" if len(curves) > CURVES else ""
    axes.set(title=f"Memory left on the shortest card{shown}", ylabel="GiB left")
    _contexts(axes, int(n_ctx.max()))
    _legend(axes, look)
    return figure


def _label(text: str) -> str:
    """Escape text that others may have written for matplotlib: without formulas."""
    return printable(text).replace("$", r"\$")


def _name(result: Sweep, row: int) -> str:
    """Name what sets one combination apart: the settings that the sweep varies."""
    point = result[row * result.shape[-1]]
    axes = (("gpus",), ("file_type",), ("type_k", "type_v"), ("n_seq_max",), ("n_ubatch",))
    varied = [names for names, n in zip(axes, result.shape, strict=False) if n > 1]
    words = ("/".join(dict.fromkeys(str(point[n]) for n in names)) for names in varied)
    labels = {"n_seq_max": "slots ", "n_ubatch": "ubatch "}
    parts = (labels.get(names[0], "") + word for names, word in zip(varied, words, strict=True))
    return ", ".join(parts) or "memory left"
