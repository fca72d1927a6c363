"""Ask a server that runs what it has loaded: a llama-server its `/props`, Ollama its `/api/ps`.

In: an address. Out: a `Running`. Nothing is sent but these questions; an answer may take so many seconds and bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Final
from urllib.parse import urlsplit

from .._base.errors import SourceError, shown

__all__ = ["OLLAMA", "Running", "running_at"]

OLLAMA: Final = "http://127.0.0.1:11434"  # where Ollama listens by default
SECONDS: Final = 5.0
MOST: Final = 4 << 20  # bytes of an answer
LARGEST: Final = 1 << 50


@dataclass(frozen=True, slots=True)
class Running:
    """A model that a server has loaded. Sizes are bytes, 0 where the server gives none."""

    program: str  # "llama-server" or "ollama"
    build: str  # as `era_of` takes it, "" where it says none
    model: str  # as the server names it
    n_ctx: int = 0  # of one slot
    slots: int = 0
    size_vram: int = 0  # on all cards together
    size: int = 0  # on cards and host together


def running_at(address: str) -> tuple[Running, ...]:
    """The models that the server at `address` has loaded; Ollama may have several. Raises `SourceError`."""
    url = address if "://" in address else f"http://{address}"
    props = _get(url, "/props")
    if isinstance(props, dict) and ("total_slots" in props or "default_generation_settings" in props):
        return (_of_props(props),)
    loaded = _get(url, "/api/ps")
    if isinstance(loaded, dict) and isinstance(loaded.get("models"), list):
        version = _get(url, "/api/version")
        name = version.get("version", "") if isinstance(version, dict) else ""
        return tuple(_of_ollama(m, name) for m in loaded["models"][:64] if isinstance(m, dict))
    raise SourceError(f"{shown(address)}: answers neither as a llama-server (/props) nor as Ollama (/api/ps)")


def _of_props(props: dict[str, Any]) -> Running:
    settings = props.get("default_generation_settings")
    n_ctx = settings.get("n_ctx") if isinstance(settings, dict) else 0
    build = str(props.get("build_info", "")).partition("-")[0]
    name = str(props.get("model_alias") or props.get("model_path") or "")
    return Running(
        "llama-server",
        build if build[:1] == "b" and build[1:].isdecimal() else "",
        name,
        _count(n_ctx),
        _count(props.get("total_slots")),
    )


def _of_ollama(model: dict[str, Any], version: Any) -> Running:
    build = f"ollama@{version}" if isinstance(version, str) and version[:1].isdecimal() else ""
    return Running(
        "ollama", build, str(model.get("name") or model.get("model") or ""), _count(model.get("context_length")), 1,
        _count(model.get("size_vram")), _count(model.get("size")),
    )  # fmt: skip


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST else 0


def _get(url: str, path: str) -> Any:
    """The JSON at a path of a server; None where it has none there."""
    parts = urlsplit(url)
    try:
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("give an address such as http://127.0.0.1:8080")
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        connection = kind(parts.hostname, parts.port, timeout=SECONDS)
    except ValueError as e:
        raise SourceError(f"{shown(url)}: {e}") from None
    try:
        connection.request("GET", parts.path.rstrip("/") + path, headers={"Accept": "application/json"})
        answer = connection.getresponse()
        body = answer.read(MOST + 1)
    except (OSError, HTTPException) as e:
        raise SourceError(f"{shown(url)}: cannot be reached: {e}") from None
    finally:
        connection.close()
    if answer.status != 200 or len(body) > MOST:
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
