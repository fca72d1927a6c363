"""Traced graphs with what the library knows of the model and the reservation."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from tools.engine.load import Refused
from tools.engine.trace import Dump, Tracer
from vramfit._base.errors import VramfitError
from vramfit._gguf import parse
from vramfit._graphs.dims import FUSED, Run
from vramfit._llama.arch import describe
from vramfit._llama.cparams import Context, resolve
from vramfit._llama.model import Model
from vramfit._llama.params import Settings

from .observe import Traced, observe

GPU = (1 << 20,)  # one card that holds everything


def read(header: str) -> Model:
    """The model of a header file."""
    return describe(parse(pathlib.Path(header).read_bytes(), name=header), source=header)


def traces(header: str, arguments: Mapping[str, Any], gpus_mib: tuple[int, ...] = GPU) -> Iterator[Traced]:
    """The graphs of the reservations of one context. Raises Refused."""
    model = read(header)
    for dump, run in dumps(header, model, arguments, gpus_mib):
        yield observe(dump, model, run)


def dumps(
    header: str, model: Model, arguments: Mapping[str, Any], gpus_mib: tuple[int, ...] = GPU
) -> Iterator[tuple[Dump, Run]]:
    """The graphs of the reservations, untouched, each with its `Run`."""
    try:
        context = resolve(model, settings(arguments))
    except VramfitError as e:
        raise Refused(str(e)) from None
    with _Tracer(header, gpus_mib=gpus_mib, **arguments) as tracer:
        passes = tracer.passes
    for number, dump in enumerate(passes):
        if number == 2 and dump == passes[0]:
            continue
        yield dump, run_of(dump, context, number, arguments, model.is_encoder)


class _Tracer(Tracer):
    """Does not look at the last reservation where it can only be the first again."""

    def __init__(self, header: str, **arguments: Any) -> None:
        self.wanted = (
            3 if arguments.get("n_seq_max", 1) > 1 and arguments.get("type_k", "f16") == "f16" else 2
        )
        super().__init__(header, **arguments)

    def _look(self, address: int) -> None:
        if len(self._seen) < self.wanted:
            super()._look(address)


def settings(arguments: Mapping[str, Any]) -> Settings:
    """The library's settings for a trace's arguments."""
    return Settings(**{"n_ctx": 512, **arguments})


def run_of(
    dump: Dump, context: Context, number: int, arguments: Mapping[str, Any], is_encoder: bool = False
) -> Run:
    """What reservation `number` of a context is; fused operations as the graph shows them."""
    n_seqs = context.n_seq_max
    n_tokens = min(context.n_ctx, context.n_ubatch)
    wanted = int(arguments.get("n_outputs_max", 0))
    n_outputs = min(n_tokens, wanted if wanted and not is_encoder else context.n_batch)
    embeddings = bool(arguments.get("embeddings", False))
    ops = {t.op for t in dump.tensors}
    flash = context.flash_attn and (not context.auto_fa or "FLASH_ATTN_EXT" in ops)
    fused = frozenset(x.lower() for x in ops) & FUSED
    run = Run(context, -(-n_tokens // n_seqs) * n_seqs, n_seqs, n_outputs, flash, embeddings, fused)
    if number == 1:
        return replace(run, n_tokens=n_seqs, n_outputs=n_seqs)
    if (
        number == 2
    ):  # another graph than at first: some reserve for one sequence at last (llama-context.cpp:716)
        return replace(run, n_tokens=n_tokens, n_seqs=1)
    return run
