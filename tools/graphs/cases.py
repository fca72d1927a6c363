"""A header and settings → the model, its placement and its reservations; and the settings that a proof tries.

Flash attention is always on or off here: what "auto" becomes depends on a scheduled graph.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from tools.engine.adapters import adapter_bytes, changed, vector_bytes
from vramfit import accompany
from vramfit._devices import Gpu
from vramfit._gguf import parse
from vramfit._graphs import FUSED, Run
from vramfit._llama.arch import describe
from vramfit._llama.cparams import Context, resolve
from vramfit._llama.model import Model
from vramfit._llama.params import Settings
from vramfit._llama.placement import Placement, place
from vramfit._llama.speculation import loaded, next_tokens, predicts, snapshots

__all__ = ["SETTINGS", "Case", "beside", "cases", "read", "reservations"]

_MIB: Final = 1 << 20
_ONE, _TWO = (1 << 20,), (1 << 19, 1 << 19)  # MiB of cards that hold everything
_DEFAULTS: Final = {"n_ctx": 8192, "flash_attn": "on", "n_outputs_max": 1}
# Architectures that reserve for one sequence at last (llama-context.cpp:709)
_ONE_SEQUENCE: Final = frozenset(("kimi-linear", "minimax-01"))

# What a proof tries, by a short name: settings over `_DEFAULTS`, "gpus_mib", and whether the cards have the operations
# that the engine fuses.
SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "one card": {},
    "no flash attention": {"flash_attn": "off", "n_outputs_max": 0},
    "four streams": {"n_seq_max": 4, "n_outputs_max": 4},
    "four streams, no flash attention": {"n_seq_max": 4, "flash_attn": "off", "n_outputs_max": 0},
    "four slots, one cache": {"n_seq_max": 4, "kv_unified": True, "n_outputs_max": 0},
    "q8_0 caches": {"type_k": "q8_0", "type_v": "q8_0"},
    "q8_0 keys, no flash attention": {"type_k": "q8_0", "flash_attn": "off", "n_ubatch": 300},
    "two cards": {"gpus_mib": _TWO, "n_outputs_max": 0, "n_ctx": 1024},
    "half of the layers": {"gpus_mib": _ONE, "n_gpu_layers": "half"},
    "half of the layers, small batch": {"gpus_mib": _TWO, "n_gpu_layers": "half", "n_ubatch": 16},
    "no card": {"gpus_mib": (), "flash_attn": "off"},
    "caches on the host": {"offload_kqv": False},
    "caches on the host, no flash attention": {"offload_kqv": False, "flash_attn": "off"},
    "embeddings": {"embeddings": True, "n_outputs_max": 0},
    "whole windows": {"swa_full": True, "n_seq_max": 2, "n_outputs_max": 2},
    "nothing fused": {"fuses": False, "n_seq_max": 2, "n_outputs_max": 2},
}


@dataclass(frozen=True)
class Case:
    """A model under settings on cards, which lack the operations that the engine fuses unless `fuses`.

    `lines` asks an oracle to say where each tensor was made, if it can. `next_tokens`: the context is that of the model's
    next-token layers, and the model is seen so.
    """

    path: pathlib.Path
    model: Model
    name: str
    gpus_mib: tuple[int, ...]
    arguments: Mapping[str, Any]
    lines: bool = False
    fuses: bool = True
    next_tokens: bool = False
    adapters: str = ""  # "lora" or "control vector": with an adapter for every matrix, or with a vector
    build: str = ""  # of the engine, where it is not the one that the library follows

    @cached_property
    def settings(self) -> Settings:
        return Settings(**self.arguments, engine_build=self.build)

    @property
    def asked(self) -> dict[str, Any]:
        """The settings by the names that `tools.engine.load` has for them."""
        own = {k: v for k, v in self.arguments.items() if k not in ("spec_type", "spec_draft_n_max")}
        own["n_rs_seq"] = snapshots(self.settings)
        return own | {
            "next_tokens": self.next_tokens,
            "load_mtp": self.next_tokens or predicts(self.settings),
        }

    @cached_property
    def context(self) -> Context:
        """Raises `EngineRefusal`."""
        return resolve(self.model, self.settings)

    @cached_property
    def placement(self) -> Placement:
        sizes = [m * _MIB for m in self.gpus_mib]
        gpus = [Gpu(name=f"card {i}", total_bytes=b, free_bytes=b) for i, b in enumerate(sizes)]
        return place(self.model, gpus, self.settings)


def read(path: pathlib.Path) -> Model:
    """The model of a header file."""
    return describe(parse(path.read_bytes(), name=str(path)), source=str(path))


def cases(
    path: pathlib.Path, model: Model, chosen: Mapping[str, Mapping[str, Any]] = SETTINGS
) -> Iterator[Case]:
    """A model under all settings of a proof."""
    for name, own in chosen.items():
        arguments: dict[str, Any] = {**_DEFAULTS, **own}
        gpus: tuple[int, ...] = tuple(arguments.pop("gpus_mib", _ONE))
        fuses, nextn = bool(arguments.pop("fuses", True)), bool(arguments.pop("next_tokens", False))
        if arguments.get("n_gpu_layers") == "half":
            arguments["n_gpu_layers"] = max(1, model.n_layer // 2)
        adapters = str(arguments.pop("adapters", ""))
        seen = (
            next_tokens(loaded(model, Settings(spec_type="draft-mtp")))
            if nextn
            else _adapted(model, adapters)
        )
        yield Case(path, seen, name, gpus, arguments, fuses=fuses, next_tokens=nextn, adapters=adapters)


def _adapted(model: Model, kind: str) -> Model:
    if kind == "lora":
        return accompany(model, lora=adapter_bytes(model.architecture, changed(model)))
    return accompany(model, control_vector=vector_bytes(model.n_embd)) if kind else model


def beside(settings: Mapping[str, Mapping[str, Any]], **more: Any) -> dict[str, dict[str, Any]]:
    """The same settings, each with others: `next_tokens=True`, or a `spec_type` with states to go back to."""
    return {name: {**own, **more} for name, own in settings.items()}


def reservations(case: Case) -> list[Run]:
    """The reservations of a context's start that differ: a prompt, a step of every slot, for some a prompt again.

    Source: llama-context.cpp:613-760.
    """
    c = case.context
    n_seqs, n_tokens = c.n_seq_max, min(c.n_ctx, c.n_ubatch)
    step = Run(
        c,
        n_seqs,
        n_seqs,
        n_seqs,
        flash_attn=c.flash_attn,
        embeddings=case.settings.embeddings,
        fused=FUSED if case.fuses else frozenset(),
    )
    n_outputs = min(n_tokens, c.n_outputs_max)
    prompt = step._replace(n_tokens=-(-n_tokens // n_seqs) * n_seqs, n_outputs=n_outputs)
    last = prompt._replace(n_tokens=n_tokens, n_seqs=1)
    alone = case.model.architecture in _ONE_SEQUENCE and last != prompt
    return [prompt, step, *([last] if alone else [])]
