"""Find models of Ollama: in its store on this machine, and in the registries that it pulls from.

Both hold a manifest, a list of layers by digest (Ollama, manifest/paths.go): the model is one of them, its
projector, parameters and template are others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from .._base.errors import SourceError
from . import manifests
from .cache import home
from .manifests import Layer
from .names import OllamaName
from .nouns import Companion, Located
from .origin import File, Missing, Origin
from .paths import check_inside, local_file, start_of
from .session import Session

_MAX_TEXT_BYTES: Final = 1 << 20
_LAYER: Final = "application/vnd.ollama.image."  # before the kind of a layer, such as "model"


def stores() -> Iterator[Path]:
    """List the folders where Ollama may keep models on this machine, the most likely first."""
    chosen = os.environ.get("OLLAMA_MODELS")
    if chosen:
        yield Path(os.path.expanduser(chosen))
        return
    yield home() / ".ollama" / "models"
    if sys.platform.startswith("linux"):  # the service that Ollama's installer sets up
        yield Path("/usr/share/ollama/.ollama/models")


def in_stores(name: OllamaName, text: str) -> Located | None:
    """Find the model `name` in a store of this machine; None when no store has it."""
    for store in stores():
        manifest = _manifest_path(store, name)
        if manifest is not None:
            return _stored(store, manifest, text)
    return None


def _manifest_path(store: Path, name: OllamaName) -> Path | None:
    """Find the manifest of `name`; the parts of a name are the same in either case."""
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
    layers = manifests.layers(_content(manifest, manifests.MAX_BYTES, text), text)

    def blob(layer: Layer) -> Path:
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
        tuple(
            Companion(kind, f"sha256:{c.digest}", c.n_bytes, blob(c)) for kind, c in _others(layers, model)
        ),
        lambda: _parameters(text_of("params"), text),
        lambda: text_of("template").decode("utf-8", "replace"),
    )


def in_registry(name: OllamaName, text: str, session: Session) -> Located:
    """Find the model `name` in its registry: fetches its manifest; its file is read when it is opened."""
    base = manifests.base_url(name.host, f"{name.namespace}/{name.model}")
    manifest = session.remembered(
        ("manifest", base, name.tag), partial(_remote_manifest, base, name, text, session)
    )
    layers = manifests.layers(manifest, text)
    model = _model(layers, text)
    file = File(
        text,
        "",
        partial(_open_blob, base, model, text, session),
        key=("header", base, model.digest),  # what a registry says of a digest goes for none but itself
        lasting=True,
        digest=model.digest,
        n_bytes=model.n_bytes,
    )
    return Located(
        file,
        tuple(Companion(kind, f"sha256:{c.digest}", c.n_bytes) for kind, c in _others(layers, model)),
        partial(_remote_parameters, base, _first(layers, "params"), text, session),
    )


def _remote_manifest(base: str, name: OllamaName, text: str, session: Session) -> bytes:
    """Fetch the manifest of `name`. Raises `Missing`, with what else the name could mean."""
    try:
        url = f"{base}/manifests/{name.tag}"
        return _fetch(url, text, session, manifests.MAX_BYTES, manifests.DOCKER_TYPE)
    except Missing:
        raise Missing(
            f"{text}: no such file here, and {name.host} has no model {name}; "
            "see `ollama list` for yours, or write hf.co/user/repo for one of the Hub"
        ) from None


def _remote_parameters(base: str, layer: Layer | None, text: str, session: Session) -> Mapping[str, Any]:
    """Fetch the parameters of a model, which have to have the digest that its manifest gives."""
    if layer is None:
        return {}
    digest, what = layer.digest, f"{text}: its list of parameters"

    def fetch_sound() -> bytes:
        body = _fetch(_blob_url(base, digest), text, session, _MAX_TEXT_BYTES)
        manifests.check(body, digest, what)
        return body

    return _parameters(session.remembered(("blob", base, digest), fetch_sound), text)


def _fetch(url: str, text: str, session: Session, limit: int, accept: str = "*/*") -> bytes:
    from . import web

    return web.fetch(session.client, url, text, accept=accept, limit=limit)


def _open_blob(
    base: str, layer: Layer, text: str, session: Session, _: str
) -> AbstractContextManager[Origin | None]:
    from . import web

    return web.open_url(session.client, _blob_url(base, layer.digest), text, spent=1)


def _blob_url(base: str, digest: str) -> str:
    return f"{base}/blobs/sha256:{digest}"


def _content(path: Path, limit: int, text: str) -> bytes:
    try:
        body = start_of(path, limit + 1)
    except OSError as error:
        raise SourceError(f"{text}: Ollama's {path} cannot be read: {error.strerror}") from error
    if len(body) > limit:
        raise SourceError(f"{text}: Ollama's {path} has more than {limit:,} bytes; it is damaged")
    return body


def _model(layers: list[Layer], text: str) -> Layer:
    model = _first(layers, "model")
    if model:
        return model
    why = (
        "is made of safetensors, for MLX"
        if _first(layers, "tensor")
        else "has no weights: it runs in the cloud"
    )
    raise SourceError(f"{text}: {why}, so there is not GGUF header to read")


def _first(layers: list[Layer], kind: str) -> Layer | None:
    return next((layer for layer in layers if layer.media_type == _LAYER + kind), None)


def _others(layers: list[Layer], model: Layer) -> Iterator[tuple[str, Layer]]:
    """List the kind of each layer that goes with the model, and the layer."""
    for layer in layers:
        if layer is not model and layer.media_type.startswith(_LAYER):
            yield layer.media_type.removeprefix(_LAYER), layer


def _parameters(body: bytes, text: str) -> Mapping[str, Any]:
    return MappingProxyType(manifests.json_object(body, f"{text}: its list of parameters") if body else {})
