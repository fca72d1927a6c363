"""The context of a load whose log does not print it: from the cells of its caches, else from their bytes.

Caches grow with the context and with nothing else that a log leaves open but their types, so a context of which the caches
take as many bytes as were printed is the one, where one of the usual types gives a whole number of cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from .._base.errors import SettingsError, VramfitError
from .._ggml.backends import Backend
from .._llama.cparams import context_step, resolve
from .._llama.memory import layer_context_bytes
from .._llama.model import Model
from .._llama.params import Settings
from .._logs import Load, Size

__all__ = ["context_of", "slots_of"]

LARGEST: Final = 1 << 25  # tokens; no context that was ever loaded has more
TIGHT: Final = 1 << 19  # bytes: figures rounded to more do not tell one type from another
_TYPES: Final = ("f16", "q8_0", "q4_0")


def context_of(
    load: Load, model: Model, rules: Backend, make: Callable[[int], Settings], said: list[str]
) -> dict[str, object]:
    """Fields of settings: the context in tokens of all slots, and with it what its bytes tell of types and slots.

    `rules` are those of the card, or the host, and `make` gives the settings with a context. Raises `SettingsError` where the log
    does not tell.
    """
    if cells := _of_cells(load):
        said.append("the context was taken from the cells of the cache")
        return {"n_ctx": cells}
    measured = _measured(load)
    if measured is None or not any(layer.caches for layer in model.layers):
        raise SettingsError("the log does not say the context; give --ctx")
    sure = measured.high - measured.low < TIGHT
    kinds = (None,) if "type_k" in load.settings else _TYPES if sure else _TYPES[:1]
    found: dict[tuple[str | None, int], int] = {}
    for kind in kinds:
        for slots in _slots(load, model):
            if n := _of_bytes(measured, model, rules, _changed(make, kind, slots)):
                found[kind, slots] = n
    if not found:
        raise SettingsError("the log does not say the context; give --ctx")
    kind, slots = max(found, key=lambda k: found[k] & -found[k])  # people ask for round numbers
    n = found[kind, slots]
    said.append(
        f"the context was taken from the bytes of the cache{f' in {kind}' if kind else ''}: {n:,} tokens"
    )
    types = {"type_k": kind, "type_v": kind} if kind else {}
    return {"n_ctx": n, **types, **({"n_seq_max": slots, "kv_unified": True} if slots else {})}


def slots_of(load: Load, model: Model, rules: Backend, settings: Settings) -> int:
    """The slots, of a model with states for each, where the log does not print them but their bytes; 0 where it does not tell."""
    measured = _measured(load)
    if measured is None:
        return 0
    for slots in _slots(load, model):
        if slots and measured.holds(
            _bytes(model, rules, replace(settings, n_seq_max=slots, kv_unified=True))
        ):
            return slots
    return 0


def _measured(load: Load) -> Size | None:
    sizes = [b.size for b in load.buffers if b.kind == "context"]
    return sum(sizes[1:], sizes[0]) if sizes else None


def _slots(load: Load, model: Model) -> tuple[int, ...]:
    """Numbers of slots to try; 0 is what is known, or makes no difference."""
    known = "n_seq_max" in load.settings or "n_slots" in load.settings
    return (0,) if known or not any(layer.states for layer in model.layers) else (1, 4, 2, 8)


def _of_cells(load: Load) -> int:
    cells = [n for by, n, _, _ in load.settings.get("caches", ()) if "recurrent" not in by]
    slots = load.settings.get("n_seq_max", load.settings.get("n_slots", 1))
    each = load.settings.get("n_ctx_seq", load.settings.get("n_ctx_per_seq"))
    if not cells and not (isinstance(each, int) and each > 0):
        return 0
    one = max(cells) if cells else int(each)
    return one * (1 if load.settings.get("kv_unified", bool(cells)) else slots)


def _changed(make: Callable[[int], Settings], kind: str | None, slots: int) -> Callable[[int], Settings]:
    """Settings with a type of cache and a number of slots, where these are given."""
    types = {"type_k": kind, "type_v": kind} if kind else {}
    more = {"n_seq_max": slots, "kv_unified": True} if slots else {}
    return lambda n: replace(make(n), **types, **more)  # type: ignore[arg-type]


def _of_bytes(measured: Size, model: Model, rules: Backend, make: Callable[[int], Settings]) -> int:
    """The smallest context whose caches take so many bytes; 0 for none."""
    try:
        step = context_step(make(LARGEST))
        low, high = 1, LARGEST // step
        while low < high:
            middle = (low + high) // 2
            low, high = (
                (low, middle)
                if _bytes(model, rules, make(middle * step)) >= measured.low
                else (middle + 1, high)
            )
        return low * step if measured.holds(_bytes(model, rules, make(low * step))) else 0
    except VramfitError:
        return 0


def _bytes(model: Model, rules: Backend, settings: Settings) -> int:
    context = resolve(model, settings)
    return sum(layer_context_bytes(model, layer, context, rules) for layer in model.layers)
