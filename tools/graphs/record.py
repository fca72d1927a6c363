"""Digests of the engine's graphs, with the headers they are of: what the tests hold every builder against.

For every loadable architecture a small header, under all settings of a proof. Needs a built engine
(docs/internals/engine.md). What the engine refuses to load or to reserve has no digest.
"""

from __future__ import annotations

import gzip
import multiprocessing
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import Any, Final, NamedTuple

from tools.engine.adapters import KINDS
from tools.engine.binding import engine
from tools.engine.metadata import Dims
from tools.engine.models import DENSE_OR_MIXTURE, MIXTURES, make_model
from tools.published.facts import facts
from vramfit._base.errors import ModelError, VramfitError
from vramfit._gguf import parse
from vramfit._graphs import FUSED
from vramfit._llama.arch import describe
from vramfit._llama.arch.table import TABLE

from . import dflash
from .cases import SETTINGS, Case, beside, cases, read
from .digest import FOLDER, Recorded, digest, digests, header_of, names, write
from .draft import Draft
from .live import truths
from .prove import Refused, Truth, Unable

__all__ = [
    "ADAPTED", "ADAPTERS", "COMPANY", "GOES_BACK", "STATES", "record", "record_adapters", "record_next_tokens", "record_states",
]  # fmt: skip

_LAYERS: Final = 8
# Architectures of which the engine makes no model that it can run: made of a published one.
_PUBLISHED: Final = {
    "dflash": "Qwen3-8B-DFlash-b16",
    "eagle3": "EAGLE3-LLaMA3.3-Instruct-70B",
    "gemma4-assistant": "gemma-4-26B-A4B-it-assistant",
    "jina-bert-v2": "jina-embeddings-v2-base-en",
    "plm": "PLM-1.8B-Instruct",
}
# Of which all heads have keys of their own
_DIMS: Final = dict.fromkeys(
    ("qwen", "deepseek2-ocr", "cogvlm", "dots1", "modern-bert"), Dims(n_layer=_LAYERS, n_head_kv=4)
)
# Published models that take ways through a builder which no small model takes
_ALSO: Final = (
    ("baichuan", "Baichuan-7B"),
    ("bailingmoe3", "Ling-3.0-flash"),
    ("bert", "bge-reranker-v2-m3"),
    ("deepseek4", "DeepSeek-V4-Flash"),
    ("gemma4", "gemma-4-E2B-it"),
    ("glm5-next", "GLM-5.3-Flash"),
    ("gptneox", "gpt-neox-20b"),
    ("granite", "granite-3.0-8b-instruct"),
    ("granitehybrid", "granite-4.0-h-1b"),
    ("grovemoe", "GroveMoE-Inst"),
    ("hy_v3", "Hy3-preview"),
    ("jina-bert-v2", "jina-embeddings-v2-base-code"),
    ("mimo2", "MiMo-V2-Flash"),
    ("nanbeige", "Nanbeige4.2-3B"),
    ("qwen3", "Qwen3-Embedding-8B"),
    ("qwen3vl", "Qwen3-VL-32B-Instruct"),
    ("qwen4exp", "Qwen3.8-Flash-Next"),
)
_Found = dict[str, list[Recorded]]

COMPANY: Final = FOLDER.parent / "company"  # headers with next-token layers, as mtp-NAME.gguf.gz
STATES: Final = "states.tsv"  # digests of graphs with states to go back to
ADAPTERS: Final = "adapters.tsv"  # digests of graphs with adapters
ADAPTED: Final = {
    f"{kind}, {x}": {**SETTINGS[x], "adapters": kind} for kind in KINDS for x in ("half of the layers",)
}
GOES_BACK: Final = {"spec_type": "draft-eagle3", "spec_draft_n_max": 3}


class _Header(NamedTuple):
    """What a header is recorded of: a model that the engine makes, a `published` one, or a kind of DFlash `draft`."""

    name: str
    architecture: str
    experts: bool = False
    published: str = ""
    draft: str = ""


def record(folder: pathlib.Path = FOLDER, chosen: frozenset[str] = frozenset()) -> list[str]:
    """Make headers, write them and their digests; says what came of each.

    `chosen`: architectures or names of headers; without a choice all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    engine()  # once, before the processes part
    found: dict[str, Mapping[str, list[Recorded]]] = dict(digests(folder)) if chosen else {}
    said = []
    for header in _headers():
        if chosen and not chosen & {header.name, header.architecture}:
            continue
        of_it, words = _apart(header, folder)
        said.append(f"{header.name}: {words}")
        print(said[-1], flush=True)
        if of_it:
            found[header.name] = of_it
            write(found, folder)
    return said


def record_next_tokens() -> None:
    """Write digests of the contexts of next-token layers, for the headers that are there."""
    found = {}
    for name in names(COMPANY):
        found[name] = _of_recorded(name, COMPANY, beside(SETTINGS, next_tokens=True))
    write(found, COMPANY)


def record_states() -> None:
    """Write digests of graphs with recurrent states to go back to, for the headers whose models keep such."""
    found = {}
    for name in names():
        if describe(parse(header_of(name), name=name), source=name).rollback:
            found[name] = _of_recorded(name, FOLDER, beside(SETTINGS, **GOES_BACK))
    write(found, file=STATES)


def record_adapters() -> None:
    """Write digests of graphs with an adapter for every matrix, and with a control vector, for all that can have them."""
    found = {}
    for name in names():
        with suppress(ModelError):
            found[name] = _of_recorded(name, FOLDER, ADAPTED)
    write(found, file=ADAPTERS)


def _of_recorded(name: str, folder: pathlib.Path, settings: Mapping[str, Mapping[str, Any]]) -> _Found:
    with tempfile.TemporaryDirectory(prefix="record-") as temporary:
        path = pathlib.Path(temporary, f"{name}.gguf")
        path.write_bytes(header_of(name, folder))
        return {case.name: _graphs(case) for case in cases(path, read(path), settings)}


def _headers() -> Iterator[_Header]:
    for architecture in TABLE:
        mixture = architecture in MIXTURES - DENSE_OR_MIXTURE
        yield _Header(architecture, architecture, mixture, _PUBLISHED.get(architecture, ""))
        if architecture in DENSE_OR_MIXTURE:
            yield _Header(f"{architecture}.experts", architecture, True)
    for architecture, model in _ALSO:
        yield _Header(f"{architecture}.{model}", architecture, published=model)
    for kind in dflash.KINDS:
        yield _Header(f"dflash.{kind}", "dflash", draft=kind)


def _apart(header: _Header, folder: pathlib.Path) -> tuple[_Found | None, str]:
    """Record in a process of its own: some models end the engine."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        try:
            return pool.submit(_one, header, folder).result()
        except BrokenProcessPool:
            return None, "the engine ended"


def _one(header: _Header, folder: pathlib.Path) -> tuple[_Found | None, str]:
    with tempfile.TemporaryDirectory(prefix="record-") as temporary:
        path = pathlib.Path(temporary, f"{header.name}.gguf")
        try:
            _make(header, path)
            model = read(path)
        except Exception as e:
            return None, f"no model: {e}"
        (folder / f"{header.name}.gguf.gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
        graphs = {case.name: _graphs(case) for case in cases(path, model, SETTINGS)}
        n = sum(map(len, graphs.values()))
        return graphs, f"{n} graphs"


def _make(header: _Header, path: pathlib.Path) -> None:
    if header.draft:
        dflash.write(header.draft, path)
        return
    if header.published:
        from tools.published.tensors import write as publish

        fact = next(x for x in facts(header.architecture) if x.model == header.published)
        _shorten(publish(fact, path.parent), path)
        return
    dims = _DIMS.get(header.architecture, Dims(n_layer=_LAYERS))
    make_model(header.architecture, path, dims, types="q8_0", experts=header.experts)


def _shorten(whole: pathlib.Path, path: pathlib.Path) -> None:
    """Write a header with the first layers of another; with all where a list by layer allows no fewer."""
    draft = Draft.read(whole)
    if draft.n_layer > _LAYERS:
        draft.reorder(list(range(_LAYERS)))
    draft.write(path)
    try:
        read(path)
    except VramfitError:
        Draft.read(whole).write(path)


def _graphs(case: Case) -> list[Recorded]:
    pins = case.placement.n_devices > 0
    try:
        return [Recorded(digest(t.graph, pins), _fused(t)) for t in truths(case)]
    except (Refused, Unable, VramfitError) as e:
        print(f"{case.path.name}, {case.name}: {e}", file=sys.stderr)
        return []


def _fused(truth: Truth) -> tuple[str, ...] | None:
    """What the engine had fused, where that is not all that a graph could have."""
    return None if truth.run.fused == FUSED else tuple(sorted(truth.run.fused))
