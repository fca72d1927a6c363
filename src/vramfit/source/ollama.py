"""Models of Ollama: its store on this machine, and the registries that it pulls from.

Both hold a manifest, a list of layers by digest (Ollama, manifest/paths.go): the model is one of them, its
projector, parameters and template are others. A manifest is not trusted: a digest is 64 hex digits or nothing.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from ..errors import SourceError
from .cache import home
from .grammar import OllamaName
from .nouns import Companion, Located
from .origin import File, Missing, Origin
from .paths import check_inside, local_file
from .session import Session

_MAX_MANIFEST_BYTES: Final = 4 << 20
_MAX_TEXT_BYTES: Final = 1 << 20
_MAX_LAYERS: Final = 1000
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})", re.IGNORECASE)
_LAYER: Final = "application/vnd.ollama.image."
_MANIFEST_TYPE: Final = "application/vnd.docker.distribution.manifest.v2+json"
_LOOPBACK: Final = re.compile(r"(localhost|127\.\d+\.\d+\.\d+)(:\d+)?")


@dataclass(frozen=True, slots=True)
class _Layer:
    kind: str  # what follows _LAYER, such as "model"
    digest: str  # 64 hex digits
    n_bytes: int


def stores() -> Iterator[Path]:
    """The folders where Ollama may keep models on this machine, the most likely first."""
    chosen = os.environ.get("OLLAMA_MODELS")
    if chosen:
        yield Path(os.path.expanduser(chosen))
        return
    yield home() / ".ollama" / "models"
    if sys.platform.startswith("linux"):  # the service that Ollama's installer sets up
        yield Path("/usr/share/ollama/.ollama/models")


def in_stores(name: OllamaName, text: str) -> Located | None:
    """The model `name` in a store of this machine, None when no store has it."""
    for store in stores():
        manifest = _manifest_path(store, name)
        if manifest is not None:
            return _stored(store, manifest, text)
    return None


def _manifest_path(store: Path, name: OllamaName) -> Path | None:
    """Where the manifest of `name` is; the parts of a name are the same in either case."""
    folder = store / "manifests"
    for part in (name.host, name.namespace, name.model, name.tag):
        exact = folder / part
        if not exact.exists():
            try:
                same = [p for p in folder.iterdir() if p.name.lower() == part.lower()]
            except OSError:
                return None
            if not same:
                return None
            exact = same[0]
        folder = exact
    return folder if folder.is_file() else None


def _stored(store: Path, manifest: Path, text: str) -> Located:
    check_inside(manifest, store, text)
    layers = _layers(_content(manifest, _MAX_MANIFEST_BYTES, text), text)

    def blob(layer: _Layer) -> Path:
        return store / "blobs" / f"sha256-{layer.digest}"

    def text_of(kind: str) -> bytes:
        layer = _first(layers, kind)
        if layer is None:
            return b""
        check_inside(blob(layer), store, text)
        return _content(blob(layer), _MAX_TEXT_BYTES, text)

    model = _model(layers, text)
    if not blob(model).exists():
        raise SourceError(
            f"{text}: is in Ollama's store, but its file {blob(model)} is not; run `ollama pull {text}`"
        )
    return Located(
        local_file(blob(model), name=text, within=store, digest=model.digest),
        tuple(Companion(c.kind, f"sha256:{c.digest}", c.n_bytes, blob(c)) for c in layers if c is not model),
        lambda: _parameters(text_of("params"), text),
        lambda: text_of("template").decode("utf-8", "replace"),
    )


def in_registry(name: OllamaName, text: str, session: Session) -> Located:
    """The model `name` in its registry: its manifest is fetched, its file is read when it is opened."""
    from . import web

    scheme = "http" if _LOOPBACK.fullmatch(name.host) else "https"
    base = f"{scheme}://{name.host}/v2/{name.namespace}/{name.model}"

    def fetch(url: str, limit: int, accept: str = "*/*") -> bytes:
        return web.fetch(session.client, url, text, accept=accept, limit=limit)

    def manifest() -> bytes:
        try:
            return fetch(f"{base}/manifests/{name.tag}", _MAX_MANIFEST_BYTES, _MANIFEST_TYPE)
        except Missing:
            raise Missing(
                f"{text}: no such file here, and {name.host} has no model {name}; "
                "see `ollama list` for yours, or write hf.co/user/repo for one of the Hub"
            ) from None

    layers = _layers(session.remembered(f"manifest {base} {name.tag}", manifest), text)
    model = _model(layers, text)

    def open_blob(_: str) -> AbstractContextManager[Origin | None]:
        return web.open_url(session.client, f"{base}/blobs/sha256:{model.digest}", text, spent=1)

    def parameters() -> Mapping[str, Any]:
        layer = _first(layers, "params")
        if layer is None:
            return {}
        url = f"{base}/blobs/sha256:{layer.digest}"
        body = session.remembered(f"params {url}", partial(fetch, url, _MAX_TEXT_BYTES))
        return _parameters(body, text)

    return Located(
        File(text, "", open_blob, key=f"sha256:{model.digest}", lasting=True, digest=model.digest),
        tuple(Companion(c.kind, f"sha256:{c.digest}", c.n_bytes) for c in layers if c is not model),
        parameters,
    )


def _content(path: Path, limit: int, text: str) -> bytes:
    try:
        with path.open("rb") as file:
            body = file.read(limit + 1)
    except OSError as error:
        raise SourceError(f"{text}: Ollama's {path} cannot be read: {error.strerror}") from error
    if len(body) > limit:
        raise SourceError(f"{text}: Ollama's {path} has more than {limit:,} bytes; it is damaged")
    return body


def _json(body: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{what} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise SourceError(f"{what} is no JSON object")
    return value


def _layers(body: bytes, text: str) -> list[_Layer]:
    """The layers of a manifest, each with a sound digest."""
    value = _json(body, f"{text}: its manifest")
    items = value.get("layers")
    if not isinstance(items, list) or len(items) > _MAX_LAYERS:
        raise SourceError(f"{text}: its manifest has no sound list of layers; run `ollama pull` again")
    layers = []
    for item in items:
        kind, digest, size = (
            (item.get(k) for k in ("mediaType", "digest", "size")) if isinstance(item, dict) else (0, 0, 0)
        )
        match = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
        if not match or not isinstance(kind, str) or not isinstance(size, int) or size < 0:
            raise SourceError(
                f"{text}: its manifest names a layer by {digest!r:.90}, which is no sha256 digest; not followed"
            )
        if kind.startswith(_LAYER):
            layers.append(_Layer(kind.removeprefix(_LAYER), match[1].lower(), size))
    return layers


def _model(layers: list[_Layer], text: str) -> _Layer:
    model = _first(layers, "model")
    if model:
        return model
    why = (
        "is made of safetensors, for MLX"
        if _first(layers, "tensor")
        else "has no weights: it runs in the cloud"
    )
    raise SourceError(f"{text}: {why}, so there is no GGUF header to read")


def _first(layers: list[_Layer], kind: str) -> _Layer | None:
    return next((layer for layer in layers if layer.kind == kind), None)


def _parameters(body: bytes, text: str) -> Mapping[str, Any]:
    return MappingProxyType(_json(body, f"{text}: its list of parameters") if body else {})
