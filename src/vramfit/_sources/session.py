"""Share between the steps of one look-up its connections, the cache and the time that it may take."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, Final

from .._base.errors import SourceError, VramfitError
from .._gguf import Array, Header, Parser
from .._gguf.limits import MAX_HEADER_BYTES
from . import origin
from .cache import Cache, Entry, Key
from .origin import File

if TYPE_CHECKING:
    from .client import Client, Progress

_UNKNOWN: Final = -1
_MANY_STRINGS: Final = 1000  # in an array: walking it takes longer than all else of a second look


class Session:
    """One look-up, from its reference to the last header."""

    def __init__(
        self, *, revision: str = "", token: str = "", cache: bool = True, progress: Progress | None = None
    ) -> None:
        self.revision, self.token = revision, token
        self.cache = Cache() if cache else None
        self._progress = progress
        self._client: Client | None = None
        self._lock = Lock()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.__exit__()

    @property
    def client(self) -> Client:
        """The connections; made when the first one is needed."""
        with self._lock:
            if self._client is None:
                from .client import Client

                self._client = Client(progress=self._progress)
            return self._client

    def read(self, file: File, limit: int = MAX_HEADER_BYTES) -> Header:
        """Read the header of `file`, from the cache where that is sure to be the same."""
        held = self.cache.get(file.key) if self.cache and file.key else None
        kept = _parse(held, file, limit) if held else None
        if held and kept and (file.lasting or held.fresh):
            return kept
        with file.open(held.note.get("etag", "") if held and kept else "") as opened:
            if opened is not None:
                header, window = origin.read_header(opened, limit)
                _check(file, opened, window)
                self._keep(file, opened, header, window)
                return header
        assert self.cache is not None
        assert kept is not None
        self.cache.confirm(file.key)
        return kept

    def _keep(self, file: File, opened: origin.Origin, header: Header, window: bytearray) -> None:
        if self.cache and file.key and (file.lasting or opened.etag):
            size = _UNKNOWN if opened.size is None else opened.size
            body = memoryview(window)[: header.header_bytes]
            strings = {
                key: len(value.body)
                for key in header.metadata
                if header.types[key] == "arr"
                and isinstance(value := header.metadata[key], Array)
                and value.type == "str"
                and value.count >= _MANY_STRINGS
            }
            self.cache.put(file.key, body, etag=opened.etag, size=size, strings=strings)

    def remembered(self, key: Key, fetch: Callable[[], bytes]) -> bytes:
        """Return what `fetch` gave a short while ago, else fetch it."""
        held = self.cache.get(key) if self.cache else None
        if held and held.fresh:
            return held.body
        body = fetch()
        if self.cache:
            self.cache.put(key, body)
        return body


def _check(file: File, opened: origin.Origin, window: bytearray) -> None:
    """Refuse a file that is not the one its place announced, as far as what was read can tell."""
    if file.n_bytes is not None and opened.size is not None and opened.size != file.n_bytes:
        raise SourceError(
            f"{file.name}: has {opened.size:,} bytes, but {file.n_bytes:,} in its manifest; try again later"
        )
    if file.digest and not file.path and opened.size == len(window):
        from .manifests import check

        check(window, file.digest, f"{file.name}: the file")


def _parse(held: Entry, file: File, limit: int) -> Header | None:
    """Parse the header that was kept; None when the entry is damaged."""
    size, strings = held.note.get("size", _UNKNOWN), held.note.get("strings", {})
    if not isinstance(size, int) or not isinstance(held.note.get("etag", ""), str) or len(held.body) > limit:
        return None
    if file.n_bytes is not None and size not in (_UNKNOWN, file.n_bytes):
        return None
    if not isinstance(strings, dict) or not all(isinstance(n, int) for n in strings.values()):
        return None
    try:
        file_size = None if size == _UNKNOWN else size
        return Parser(file_size=file_size, name=file.name, string_bytes=strings).parse(held.body)
    except VramfitError:
        return None
