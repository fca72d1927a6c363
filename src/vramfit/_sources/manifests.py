"""Read manifests: lists of layers by digest, as container registries and Ollama's store keep them.

A manifest is not trusted: a digest is 64 hex digits or nothing, sizes and counts are bounded.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from .._base.errors import SourceError

MAX_BYTES: Final = 4 << 20
DOCKER_TYPE: Final = "application/vnd.docker.distribution.manifest.v2+json"
OCI_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
_MAX_LAYERS: Final = 1000
_DIGEST: Final = r"sha256:([0-9a-fA-F]{64})"
_LOOPBACK: Final = r"(localhost|127\.\d+\.\d+\.\d+)(:\d+)?"
# What calls a layer's file by its name: ORAS, and the model specification of the CNCF that Docker follows too.
_TITLES: Final = ("org.opencontainers.image.title", "org.cncf.model.filepath")


@dataclass(frozen=True, slots=True)
class Layer:
    """One file of a model."""

    media_type: str
    digest: str  # sha256 in lower-case hex
    n_bytes: int
    title: str = ""  # the file's name, where the manifest tells it


def base_url(host: str, repository: str) -> str:
    """Find where the routes of a repository begin; a registry on this machine is spoken to by http."""
    return f"{'http' if on_this_machine(host) else 'https'}://{host}/v2/{repository}"


def on_this_machine(host: str) -> bool:
    """Whether `host`, a port behind it or not, is this machine."""
    return re.fullmatch(_LOOPBACK, host) is not None


def json_object(body: bytes, what: str) -> dict[str, Any]:
    """Decode the JSON object in `body`; raises `SourceError` that begins with `what` when it is none."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{what} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise SourceError(f"{what} is not a JSON object")
    return value


def check(body: bytes | bytearray, digest: str, what: str) -> None:
    """Refuse a `body` whose sha256 is not `digest`; `SourceError` begins with `what`."""
    from hashlib import sha256

    found = sha256(body).hexdigest()
    if found != digest:
        raise SourceError(
            f"{what} is another than was announced: its sha256 is {found}, not {digest}; try again"
        )


def layers(body: bytes, text: str) -> list[Layer]:
    """Read the layers of the manifest of `text`, each with a sound digest. Raises `SourceError`."""
    items = json_object(body, f"{text}: its manifest").get("layers")
    if not isinstance(items, list) or len(items) > _MAX_LAYERS:
        raise SourceError(f"{text}: its manifest has no sound list of layers; pull or push the model again")
    return [_layer(item if isinstance(item, dict) else {}, text) for item in items]


def _layer(item: dict[str, Any], text: str) -> Layer:
    media_type, digest, size = (item.get(k) for k in ("mediaType", "digest", "size"))
    match = re.fullmatch(_DIGEST, digest) if isinstance(digest, str) else None
    if not match or not isinstance(media_type, str) or not isinstance(size, int) or size < 0:
        raise SourceError(
            f"{text}: its manifest names a layer by {digest!r:.90}, which is not a sha256 digest; not followed"
        )
    notes = item.get("annotations")
    titles = [notes.get(key) for key in _TITLES] if isinstance(notes, dict) else []
    title = next((t for t in titles if isinstance(t, str)), "")
    return Layer(media_type, match[1].lower(), size, title)
