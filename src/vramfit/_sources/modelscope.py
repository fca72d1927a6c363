"""Find which files a ModelScope repository has, and where their bytes are. Public models; no token is sent."""

from __future__ import annotations

import json
import os
from typing import Any, Final
from urllib.parse import quote, urlencode

from .._base.errors import SourceError
from . import manifests
from .choose import choose, projectors
from .names import ModelScopeName
from .nouns import Companion
from .origin import Missing
from .session import Session

_DOMAIN: Final = (
    "www.modelscope.cn"  # unless MODELSCOPE_DOMAIN, which ModelScope's own tools read, says another
)
_DEFAULT_REVISION: Final = "master"
_MAX_LIST_BYTES: Final = 32 << 20
_MAX_FILES: Final = 100_000


def find(name: ModelScopeName, text: str, session: Session) -> tuple[str, tuple[Companion, ...]]:
    """Find the URL of the file that `name` means, and what goes with it.

    The repository is listed when the file has to be chosen.
    """
    domain = os.environ.get("MODELSCOPE_DOMAIN", "").strip("/") or _DOMAIN
    scheme = "http" if manifests.on_this_machine(domain) else "https"
    revision = name.revision or _DEFAULT_REVISION
    root = f"{scheme}://{domain}"
    companions: tuple[Companion, ...] = ()
    filename = name.filename
    if not filename:
        query = urlencode({"Revision": revision, "Recursive": "True"})
        listing = f"{root}/api/v1/models/{name.repo}/repo/files?{query}"
        files: dict[str, int] = json.loads(
            session.remembered(("listing", listing), lambda: _list(listing, text, session))
        )
        filename = choose(files, name.quant, text, f"ms://{name.repo}/{{}}")
        companions = tuple(Companion("projector", f, files[f]) for f in projectors(files))
    return f"{root}/models/{name.repo}/resolve/{quote(revision, safe='')}/{quote(filename)}", companions


def _list(url: str, text: str, session: Session) -> bytes:
    """List the GGUF files of a repository and their sizes in bytes, as a JSON object."""
    from . import web

    try:
        body = web.fetch(session.client, url, text, accept="application/json", limit=_MAX_LIST_BYTES)
    except Missing:
        raise Missing(f"{text}: ModelScope has no such repository or revision; see its page there") from None
    answer = manifests.json_object(body, f"{text}: ModelScope's list of files")
    data = answer.get("Data")
    rows = data.get("Files") if isinstance(data, dict) else None
    if not isinstance(rows, list):
        raise SourceError(f"{text}: ModelScope lists no files: {str(answer.get('Message'))[:200]!r}")
    return json.dumps(dict(filter(None, map(_file, rows[:_MAX_FILES])))).encode()


def _file(row: Any) -> tuple[str, int] | None:
    path, size = (row.get("Path"), row.get("Size")) if isinstance(row, dict) else (None, None)
    if not isinstance(path, str) or not path.endswith(".gguf") or ".." in path.split("/"):
        return None
    return path, size if isinstance(size, int) and size >= 0 else 0
