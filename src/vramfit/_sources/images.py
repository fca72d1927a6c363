"""Find models in container registries, as Docker Model Runner, ORAS and RamaLama push them: Docker Hub, Quay and others.

An image is a manifest and its layers; one layer, or one for each shard, is the GGUF file as it is. A registry
that wants a token names the place that gives it, to anyone who asks for a public model (distribution-spec, "Bearer").
The token is for that registry alone and is written nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import Final, TypeVar
from urllib.parse import urlencode

from .._base.errors import SourceError
from . import choose, manifests
from .manifests import Layer
from .names import ImageName
from .nouns import Companion, Located
from .origin import File, Missing, Origin, Unauthorized
from .session import Session

_T = TypeVar("_T")
_ACCEPT: Final = f"{manifests.OCI_TYPE}, {manifests.DOCKER_TYPE}"
_MAX_TOKEN_BYTES: Final = 64 << 10
_KINDS: Final = (("mmproj", "projector"), ("chat.template", "template"), ("license", "license"))


def in_registry(name: ImageName, text: str, session: Session) -> Located:
    """Find the model `name` in its registry: its manifest is fetched, its layers are read when they are opened."""
    registry = _Registry(name, text, session)
    layers = manifests.layers(registry.manifest(), text)
    files = _model_files(layers, text)
    models = choose.models(files)
    if len(models) != 1:
        raise SourceError(f"{text}: {_why_not(layers, models)}")
    return Located(registry.file(models[0], files), tuple(_companions(layers)))


def _model_files(layers: list[Layer], text: str) -> dict[str, Layer]:
    """Map file names to the layers that hold GGUF files: their own names, else the one llama.cpp gives a shard."""
    # llama.cpp takes a layer with "gguf" in its type (download.cpp:900)
    found = [x for x in layers if "gguf" in x.media_type or x.title.lower().endswith(".gguf")]
    names = {
        x.title.rpartition("/")[2] or f"model-{i:05d}-of-{len(found):05d}.gguf": x
        for i, x in enumerate(found, 1)
    }
    if len(names) < len(found):
        raise SourceError(f"{text}: two files of its manifest have one name; push the model again")
    return {name if name.endswith(".gguf") else f"{name}.gguf": layer for name, layer in names.items()}


def _why_not(layers: list[Layer], models: list[str]) -> str:
    if models:
        return f"holds several models: {', '.join(models[:10])}; push each as an image of its own"
    if any(".tar" in x.media_type or "diff.tar" in x.media_type for x in layers):
        return (
            "is made of archives, which are not unpacked for a header; name the GGUF file they were made from, "
            "or push it as an artifact"
        )
    held = ", ".join(sorted({x.media_type for x in layers})[:5]) or "nothing"
    return f"holds no GGUF file but {held:.300}"


def _companions(layers: list[Layer]) -> Iterator[Companion]:
    for layer in layers:
        for word, kind in _KINDS:
            if word in layer.media_type or (kind == "projector" and word in layer.title.lower()):
                yield Companion(kind, f"sha256:{layer.digest}", layer.n_bytes)
                break


class _Registry:
    """One repository of a registry."""

    def __init__(self, name: ImageName, text: str, session: Session) -> None:
        self._name, self._text, self._session = name, text, session
        self._base = manifests.base_url(name.host, name.repository)
        self._auth: dict[str, str] = {}
        self._lock = Lock()  # shards are opened by several threads, and one token serves them all

    def manifest(self) -> bytes:
        """Fetch the manifest, from the cache where it is known; the one that the name's digest says."""
        name = self._name
        reference = f"sha256:{name.digest}" if name.digest else name.tag
        body = self._session.remembered(("manifest", self._base, reference), lambda: self._fetch(reference))
        if "manifests" in manifests.json_object(body, f"{self._text}: its manifest"):
            raise SourceError(
                f"{self._text}: is a list of images; name one of them by its digest, as in "
                f"oci://{name.host}/{name.repository}@sha256:..."
            )
        return body

    def file(self, filename: str, files: Mapping[str, Layer]) -> File:
        """Make one file of the model, not yet looked at; the others are beside it."""
        layer = files.get(filename)

        @contextmanager
        def open_blob(_: str) -> Iterator[Origin | None]:
            from . import web

            if layer is None:
                raise Missing(f"{self._text}: its manifest has no layer {filename}")
            url = f"{self._base}/blobs/sha256:{layer.digest}"
            with ExitStack() as stack:
                yield self._ask(
                    lambda auth: stack.enter_context(
                        web.open_url(self._session.client, url, self._text, auth=auth, spent=1)
                    )
                )

        shown = self._text if len(files) == 1 else f"{self._text} ({filename})"

        def beside(other: str) -> File:
            return self.file(other, files)

        if layer is None:
            return File(shown, filename, open_blob, beside)
        key = (
            "header",
            self._base,
            layer.digest,
        )  # what a registry says of a digest goes for none but itself
        return File(
            shown, filename, open_blob, beside,
            key=key, lasting=True, digest=layer.digest, n_bytes=layer.n_bytes,
        )  # fmt: skip

    def _fetch(self, reference: str) -> bytes:
        from . import web

        url = f"{self._base}/manifests/{reference}"

        def fetch(auth: Mapping[str, str]) -> bytes:
            return web.fetch(
                self._session.client, url, self._text, accept=_ACCEPT, limit=manifests.MAX_BYTES, auth=auth
            )

        try:
            body = self._ask(fetch)
        except Missing:
            raise Missing(
                f"{self._text}: {self._name.host} has no {self._name.repository} with {reference}; "
                "see the tags on its page"
            ) from None
        if self._name.digest:
            manifests.check(body, self._name.digest, f"{self._text}: the manifest of {self._name.host}")
        return body

    def _ask(self, ask: Callable[[Mapping[str, str]], _T]) -> _T:
        """Call `ask`, once more with a token when the registry wants one."""
        with self._lock:
            known = self._auth
        try:
            return ask(known)
        except Unauthorized as refusal:
            if known:
                raise
            challenge = refusal.challenge
        with self._lock:
            if not self._auth:
                self._auth = {"Authorization": f"Bearer {self._token(challenge)}"}
        return ask(self._auth)

    def _token(self, challenge: str) -> str:
        """Fetch the token that the place named by `challenge` gives to anyone, for reading this repository alone."""
        from . import web

        fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge[:4096]))
        if not challenge.lower().startswith("bearer ") or not fields.get("realm"):
            raise SourceError(
                f"{self._text}: {self._name.host} wants a login; vramfit reads public images only: download the file"
            )
        query = {"scope": f"repository:{self._name.repository}:pull", "service": fields.get("service", "")}
        realm = web.redirected(self._base, fields["realm"], self._text)
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}"
        body = web.fetch(self._session.client, url, self._text, accept="*/*", limit=_MAX_TOKEN_BYTES)
        answer = manifests.json_object(body, f"{self._text}: the token of {self._name.host}")
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
            raise SourceError(f"{self._text}: {self._name.host} gives no token for it; it may be private")
        return token
