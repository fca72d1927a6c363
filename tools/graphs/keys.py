"""Header keys that a builder reads although the engine does not load them for the architecture: false switches.

The engine loads some keys for every architecture and others in its `load_arch_hparams`. What a file says under a key
that is not loaded changes nothing there, and must not here. Reads the engine's source, and needs no built engine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from vramfit._base.errors import EngineRefusal, VramfitError
from vramfit._llama.model import Model

from .cases import SETTINGS, Case, cases, reservations
from .ours import Unbuildable, graph_of

__all__ = ["false_switches", "keys_of_engine", "keys_read"]

_FUNCTION: Final = re.compile(r"^[\w:<>*&,~ ]*?\b(\w+(?:::\w+)?)\([^;{}]*\)[^;{}]*\{$.*?^\}$", re.M | re.S)
_KEY: Final = re.compile(r"LLM_KV_(\w+)")
_LOADER: Final = "load_arch_hparams"
_ALL_LOAD: Final = ("llama_model_base::load_hparams",)
_CASE: Final = re.compile(r"((?:case LLM_ARCH_\w+:\s*)+)return new (llama_model_\w+)")
_BASE: Final = re.compile(r"struct (llama_model_\w+)\s*:\s*public (\w+)")
# Which branches of a builder are taken: all that a header's keys may decide.
_CHOSEN: Final = ("one card", "four streams, no flash attention", "embeddings")


def false_switches(model: Model, path: Path, source: Path) -> list[str]:
    """Keys that building the model's graphs asks for, and that its architecture does not load."""
    return sorted(keys_read(model, path) - keys_of_engine(source)[model.architecture])


class _Watched(Mapping[str, Any]):
    """Metadata that remembers what was asked of it by name."""

    def __init__(self, plain: Mapping[str, Any]) -> None:
        self.plain = plain
        self.asked: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return self.plain[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.plain)

    def __len__(self) -> int:
        return len(self.plain)

    def items(self) -> Any:  # who goes through all asks for none
        return self.plain.items()


def keys_read(model: Model, path: Path) -> frozenset[str]:
    """Keys that the builder of a model asks for, whether the header has them or not."""
    watched = _Watched(model.hparams)
    seen = replace(model, hparams=watched)
    for case in cases(path, model, {name: SETTINGS[name] for name in _CHOSEN}):
        for run in _runs(case):
            try:
                graph_of(seen, run, case.placement)
            except (Unbuildable, EngineRefusal):  # the engine stops there, too
                continue
    return frozenset(watched.asked)


def _runs(case: Case) -> list[Any]:
    try:
        return list(reservations(case))
    except VramfitError:
        return []


@cache
def keys_of_engine(source: Path) -> Mapping[str, frozenset[str]]:
    """By architecture, the keys that the engine loads, without the architecture's prefix."""
    src = source / "src"
    names = (src / "llama-arch.cpp").read_text()
    spelled = dict(re.findall(r'\{\s*LLM_KV_(\w+),\s*"(?:%s\.)?([^"]+)"', names))
    model, hparams = (src / "llama-model.cpp").read_text(), (src / "llama-hparams.cpp").read_text()
    everywhere = _keys("".join(_functions(model)[name] for name in _ALL_LOAD) + hparams)
    loads = _loads(src)
    bases = dict(_BASE.findall((src / "models" / "models.h").read_text()))
    found: dict[str, frozenset[str]] = {}
    for constant, name in re.findall(r'\{ LLM_ARCH_(\w+),\s*"([^"]+)"', names):
        owner = _classes(model).get(constant, "")
        while owner and owner not in loads:
            owner = bases.get(owner, "")
        own = everywhere | loads.get(owner, frozenset())
        found[name] = frozenset(spelled[key] for key in own if key in spelled)
    return found


def _classes(model: str) -> dict[str, str]:
    """The class of each architecture's models."""
    return {
        constant: owner
        for cases_, owner in _CASE.findall(model)
        for constant in re.findall(r"LLM_ARCH_(\w+)", cases_)
    }


def _loads(src: Path) -> dict[str, frozenset[str]]:
    """The keys that each class loads for itself, in its own function and those of its file that this one calls."""
    found = {}
    for path in sorted((src / "models").glob("*.cpp")):
        functions = _functions(path.read_text())
        for name, body in functions.items():
            owner, _, method = name.partition("::")
            if method == _LOADER:
                called = (text for other, text in functions.items() if re.search(rf"\b{other}\(", body))
                found[owner] = _keys("".join((body, *called)))
    return found


def _functions(text: str) -> dict[str, str]:
    """Functions that begin and end at the left margin, by their name."""
    return {m[1]: m[0] for m in _FUNCTION.finditer(text)}


def _keys(text: str) -> frozenset[str]:
    return frozenset(_KEY.findall(text))
