"""Read headers over HTTP: as few requests and bytes as they need, from servers that are not trusted.

The size of a header shows only while it is read. So each request asks for a range that surely is not
too much (`_SPARE_BYTES` beyond what the header is known to need), and the last one that the budget of three allows
asks for all that follows and is dropped once the header is whole.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urljoin, urlsplit

from .._base.errors import SourceError
from .client import ATTEMPTS, SMALL_BYTES, Client, host_of
from .origin import Missing, Origin, Unauthorized
from .redact import redacted

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse


REQUESTS: Final = 3  # that one header may cost
STEP_BYTES: Final = 16 << 10  # the window of a remote header grows by this much
_SPARE_BYTES: Final = 48 << 10  # asked for beyond one step, so that 64 KiB are never passed
_MAX_REDIRECTS: Final = 5


class RangeStream:
    """A remote file from its start, asked for piece by piece and left as soon as nobody reads on."""

    def __init__(
        self, client: Client, url: str, name: str, *, auth: Mapping[str, str] | None = None,
        spent: int = 0, etag: str = "", accept: str = "*/*", ranged: bool = True,
    ) -> None:  # fmt: skip
        self._client, self._url, self.name = client, url, name
        self._accepted, self._ranged = accept, ranged
        self._auth, self._auth_origin = dict(auth or {}), origin_of(url)
        self._spent = spent
        self._position = 0
        self._end: int | None = 0  # of the range being read; None when the server does not say
        self._answer: BaseHTTPResponse | None = None
        self._cut = 0  # answers that ended before what they promised
        self.size: int | None = None
        self.etag = ""
        self.unchanged = False
        self._request(STEP_BYTES, known=etag)

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end of the file."""
        while not self._at_end():
            if self._answer is None:
                self._request(size)
                continue
            chunk = self._chunk(size)
            if chunk:
                self._position += len(chunk)
                if self._client.progress:
                    self._client.progress(self.name, len(chunk))
                return chunk
            self._ended()
        return b""

    def close(self) -> None:
        """Leave the server; what it still sends is not read."""
        if self._answer is not None:
            self._answer.close()  # one that was read to its end has given its connection back already
            self._answer = None

    def _at_end(self) -> bool:
        return self.size is not None and self._position >= self.size

    def _chunk(self, size: int) -> bytes:
        from urllib3.exceptions import HTTPError

        assert self._answer is not None
        if self._end is not None:
            size = min(size, self._end - self._position)
        try:
            return self._answer.read1(min(size, 64 << 10)) or b""
        except (HTTPError, OSError) as error:
            self._client.remaining(self.name)
            if isinstance(error, TimeoutError) or "timed out" in str(error).lower():
                raise SourceError(
                    f"{self.name}: {host_of(self._url)} sent nothing for {self._client.patience.idle:g} s"
                ) from error
            return b""

    def _ended(self) -> None:
        """Check that an answer which is over ended as promised, with the file, or too early."""
        self.close()
        if self._end is None:  # no length was promised: this is the end
            self.size = self._position
        if self._position == (self.size if self._end is None else self._end):
            return
        self._cut += 1
        if self._cut >= ATTEMPTS:
            raise SourceError(
                f"{self.name}: {host_of(self._url)} ends its answers early: at byte {self._position:,} "
                f"of the {self._end:,} it promises"
            )

    def _request(self, size: int, known: str = "") -> None:
        """Ask for what follows, at least `size` bytes where there are as many."""
        for _ in range(_MAX_REDIRECTS + 1):
            last = self._spent >= REQUESTS - 1
            headers = {
                "Accept": self._accepted, "Accept-Encoding": "identity", "User-Agent": user_agent(),
            }  # fmt: skip
            if self._ranged:
                end = "" if last else self._position + self._ask(size) - 1
                headers["Range"] = f"bytes={self._position}-{end}"
            if origin_of(self._url) == self._auth_origin:
                headers |= self._auth
            if known:
                headers["If-None-Match"] = known
            self._spent += 1
            answer = self._client.get(self._url, self.name, headers)
            if answer.status not in (301, 302, 303, 307, 308):
                self._accept(answer, known)
                return
            self._follow(answer)
        raise SourceError(f"{self.name}: more than {_MAX_REDIRECTS} redirects; the link leads in a circle")

    def _ask(self, size: int) -> int:
        """Choose how many bytes to ask for: no more than the bounds on a whole header allow, given that it takes `size` more."""
        need = self._position + size
        return size + (_SPARE_BYTES if need < SMALL_BYTES else need // 2)

    def _follow(self, answer: BaseHTTPResponse) -> None:
        location = answer.headers.get("Location", "")
        with suppress(Exception):  # a short body is read, so that the connection serves on
            if int(answer.headers.get("Content-Length", "")) <= 1024:
                answer.read1(1024)
        answer.close()
        self._url = redirected(self._url, location, self.name)

    def _accept(self, answer: BaseHTTPResponse, known: str) -> None:
        try:
            if answer.status == 304 and known:
                self.unchanged = True
                answer.close()
                return
            if answer.status == 416:
                self.size = self._position
                answer.close()
                return
            self._check(answer)
        except BaseException:
            answer.close()
            raise
        self._answer = answer

    def _check(self, answer: BaseHTTPResponse) -> None:
        """Refuse what is not the piece that was asked for; note what it is a piece of."""
        host = host_of(self._url)
        if answer.status not in (200, 206):
            raise_for_status(answer.status, self.name, host, answer.headers.get("WWW-Authenticate", ""))
        encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise SourceError(
                f"{self.name}: {host} sends it encoded as {encoding!r:.40}, though asked not to; not unpacked"
            )
        etag = answer.headers.get("ETag", "")
        if self._position and (answer.status == 200 or etag != self.etag):
            raise SourceError(
                f"{self.name}: changed on {host} while it was read, or {host} takes no ranges any more; try again"
            )
        self.etag = etag
        if answer.status == 200:  # the range was ignored: read what is needed, then leave
            length = answer.headers.get("Content-Length", "")
            self.size = int(length) if length.isascii() and length.isdigit() and len(length) < 20 else None
            self._end = self.size
            return
        start, self._end, size = _content_range(answer.headers.get("Content-Range", ""), self.name, host)
        if start != self._position or (self.size is not None and size != self.size):
            raise SourceError(
                f"{self.name}: {host} answers with another range than was asked for; it cannot be read in pieces"
            )
        self.size = size


def redirected(url: str, location: str, name: str) -> str:
    """Find where `location` leads from `url`; raises `SourceError` when that is not to be followed."""
    try:
        target = urljoin(url, location)
        scheme = urlsplit(target).scheme.lower()
    except ValueError:
        target, scheme = location, ""
    if not location or scheme not in ("http", "https"):
        raise SourceError(
            f"{name}: is redirected to {redacted(target)!r}, which is not a web address; not followed"
        )
    if scheme == "http" and urlsplit(url).scheme == "https":
        raise SourceError(
            f"{name}: is redirected from https to {redacted(target)}, which anyone could forge; not followed"
        )
    return target


def _content_range(text: str, name: str, host: str) -> tuple[int, int, int | None]:
    """Read a Content-Range: first byte, byte behind the last, and size of the whole file."""
    unit, _, rest = text.strip().partition(" ")
    span, _, total = rest.partition("/")
    first, _, last = span.partition("-")
    numbers = [first, last] if total == "*" else [first, last, total]
    if unit.lower() == "bytes" and all(n.isascii() and n.isdigit() and len(n) < 20 for n in numbers):
        start, end, size = int(first), int(last) + 1, None if total == "*" else int(total)
        if start < end and (size is None or end <= size):
            return start, end, size
    raise SourceError(
        f"{name}: {host} sends no sound Content-Range ({text!r:.60}); it cannot be read in pieces"
    )


@contextmanager
def open_url(
    client: Client, url: str, name: str, *, auth: Mapping[str, str] | None = None,
    spent: int = 0, etag: str = "",
) -> Iterator[Origin | None]:  # fmt: skip
    """Open the file at `url`; None when its state is still `etag`. `auth` is shown to the host of `url` alone."""
    stream = RangeStream(client, url, name, auth=auth, spent=spent, etag=etag)
    try:
        yield None if stream.unchanged else Origin(name, stream, stream.size, STEP_BYTES, stream.etag)
    finally:
        stream.close()


def fetch(
    client: Client, url: str, name: str, *, accept: str, limit: int, auth: Mapping[str, str] | None = None
) -> bytes:
    """Fetch a small text, whole: of at most `limit` bytes. `auth` is shown to the host of `url` alone."""
    stream = RangeStream(client, url, name, auth=auth, accept=accept, ranged=False)
    body = bytearray()
    try:
        while chunk := stream.read(64 << 10):
            body += chunk
            if len(body) > limit:
                raise SourceError(
                    f"{name}: {host_of(url)} answers with more than {limit:,} bytes where a few are due"
                )
    finally:
        stream.close()
    return bytes(body)


def raise_for_status(status: int, name: str, host: str, challenge: str = "") -> None:
    """Raise the error that a refusal of the server means to the person who asked."""
    if status in (404, 410):
        raise Missing(f"{name}: {host} has no such file ({status})")
    if status in (401, 403):
        message = f"{name}: {host} refuses access ({status}); it is private, gated or needs a token"
        raise Unauthorized(message, challenge) if status == 401 else SourceError(message)
    if status == 429:
        raise SourceError(f"{name}: {host} has had too many requests from here (429); try again later")
    raise SourceError(f"{name}: {host} answers {status}" + ("; try again later" if status >= 500 else ""))


def origin_of(url: str) -> tuple[str, str, int | None]:
    """Find scheme, host and port: what a token is bound to."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        raise SourceError(f"{redacted(url)}: is not a URL: its port is not a number") from None
    return parts.scheme, (parts.hostname or "").lower(), port or {"http": 80, "https": 443}.get(parts.scheme)


def basic_auth(user: str | None, password: str | None) -> dict[str, str]:
    """Make the header that shows the user and password of a URL, where it has them."""
    if user is None:
        return {}
    pair = f"{unquote(user)}:{unquote(password or '')}"
    return {"Authorization": "Basic " + b64encode(pair.encode()).decode()}


def user_agent() -> str:
    """Say to servers who asks."""
    from .._base.version import __version__

    return f"vramfit/{__version__}"
