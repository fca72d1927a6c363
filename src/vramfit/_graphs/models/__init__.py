"""One builder for each architecture: `build(g)` appends the graph of a reservation. Modules are named as in the engine.

To add an architecture, add a module called as the header calls it, with "_" for "-", or its name to `_SAME` where a
builder serves several. A module may say what tells its layers apart beside weights and header: `traits(g, il)`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Final, NamedTuple

from ..._llama.model import Model
from ..context import GraphContext

__all__ = ["Builder", "architectures", "builder_for"]

# Architectures that a builder of another name makes
_SAME: Final = {
    "deepseek2-ocr": "deepseek2",
    "glm-dsa": "deepseek32",
    "granitemoe": "granite",
    "hunyuan-dense": "hunyuan_vl",
    "jina-bert-v2": "bert",
    "jina-bert-v3": "bert",
    "lfm2moe": "lfm2",
    "mamba": "mamba2",
    "mistral4": "deepseek2",
    "nemotron_h_moe": "nemotron_h",
    "nomic-bert": "bert",
    "nomic-bert-moe": "bert",
    "paddleocr": "qwen2vl",
    "phimoe": "phi3",
    "qwen35moe": "qwen35",
    "qwen3tts": "qwen3vl",
    "starcoder": "gpt2",
}


class Builder(NamedTuple):
    """How the graphs of an architecture are made."""

    build: Callable[[GraphContext], None]
    traits: Callable[[Model, int], Hashable] | None = None  # what a layer's index alone decides
    one_sequence: bool = False  # the last reservation is made with one sequence (llama-context.cpp:717)


def architectures() -> tuple[str, ...]:
    """List the architectures that have a builder, by name with "_" for "-"."""
    return tuple(sorted({x.name for x in iter_modules(__path__)} | {x.replace("-", "_") for x in _SAME}))


@cache
def builder_for(architecture: str) -> Builder | None:
    """Import the builder of an architecture; None where there is none."""
    name = _SAME.get(architecture, architecture.replace("-", "_"))
    if not name.isidentifier() or name not in {x.name for x in iter_modules(__path__)}:
        return None
    module = import_module(f"{__name__}.{name}")
    return Builder(module.build, getattr(module, "traits", None), getattr(module, "ONE_SEQUENCE", False))
