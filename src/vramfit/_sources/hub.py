"""The Hugging Face Hub. huggingface-hub does the talking: what is in a repository, where a file's bytes
are, who may have them. Only those bytes are read by `web`, piece by piece.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from .._base.errors import SourceError
from .choose import choose, projectors
from .grammar import hub_endpoint
from .names import HubName
from .nouns import Companion, Located
from .origin import File, Missing, Origin
from .redact import redacted, redacted_within
from .session import Session

_T = TypeVar("_T")
_TIMEOUT: Final = 15.0
_MAX_FILES: Final = 100_000


def on_hub(name: HubName, text: str, session: Session) -> Located:
    """Find the file on the Hub that `name` means. Its repository is listed when the file has to be chosen."""
    hub = _Hub(hub_endpoint() or "https://huggingface.co", name, session)
    if name.filename:
        return Located(hub.file(name.filename))
    files = hub.listing()
    chosen = choose(files, name.quant, text, f"hf.co/{name.repo}/{{}}")
    companions = tuple(Companion("projector", f) for f in projectors(files))
    return Located(hub.file(chosen), companions)


class _Hub:
    """One repository at one revision."""

    def __init__(self, endpoint: str, name: HubName, session: Session) -> None:
        self._endpoint, self._session = endpoint, session
        self._repo, self._revision = name.repo, name.revision or None
        self._spent = 0

    def file(self, filename: str) -> File:
        """Make a file of the repository, not yet looked at."""
        shown = f"hf.co/{self._repo}" + (f"@{self._revision}" if self._revision else "") + f"/{filename}"

        def beside(other: str) -> File:
            return self.file(filename.rpartition("/")[0] + "/" + other if "/" in filename else other)

        @contextmanager
        def open_file(etag: str) -> Iterator[Origin | None]:
            with self._open(filename, shown, etag) as origin:
                yield origin

        key = ("hub", self._endpoint, self._repo, self._revision or "", filename)
        return File(shown, filename.rpartition("/")[2], open_file, beside, key=key)

    def listing(self) -> list[str]:
        """List the names of all files."""
        shown = f"hf.co/{self._repo}"
        body = self._session.remembered(
            ("listing", self._endpoint, self._repo, self._revision or ""), lambda: self._list(shown)
        )
        names: list[str] = json.loads(body)
        return names

    def _list(self, shown: str) -> bytes:
        from huggingface_hub import HfApi

        self._spent += 1
        api = HfApi(endpoint=self._endpoint, token=self._token() or False)
        info = self._talk(
            shown, lambda: api.model_info(self._repo, revision=self._revision, timeout=self._patience(shown))
        )
        names = [s.rfilename for s in info.siblings or () if isinstance(s.rfilename, str)]
        return json.dumps([n for n in names[:_MAX_FILES] if n.endswith(".gguf")]).encode()

    @contextmanager
    def _open(self, filename: str, shown: str, etag: str) -> Iterator[Origin | None]:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        from . import web
        from .client import host_of

        token = self._token()
        url = hf_hub_url(self._repo, filename, revision=self._revision, endpoint=self._endpoint)
        found: Any = self._talk(
            shown,
            lambda: get_hf_file_metadata(
                url, token=token or False, timeout=self._patience(shown), endpoint=self._endpoint
            ),
        )
        if etag and found.etag == etag:
            yield None
            return
        location = web.redirected(url, found.location, shown)
        # The token is for the Hub; where its files lie is told by an address that needs none.
        home = web.origin_of(location) == web.origin_of(self._endpoint)
        auth = {"Authorization": f"Bearer {token}"} if token and home else {}
        with web.open_url(self._session.client, location, shown, auth=auth, spent=self._spent + 1) as origin:
            assert origin is not None
            if found.size is not None and origin.size is not None and found.size != origin.size:
                raise SourceError(
                    f"{shown}: the Hub says it has {found.size:,} bytes, but {host_of(location)} has "
                    f"{origin.size:,}; try again later"
                )
            yield Origin(origin.name, origin.stream, origin.size, origin.step, found.etag or "")

    def _token(self) -> str | None:
        from huggingface_hub import get_token

        return self._session.token or get_token()

    def _patience(self, shown: str) -> float:
        return min(_TIMEOUT, self._session.client.remaining(shown))

    def _talk(self, shown: str, ask: Callable[[], _T]) -> _T:
        """Ask the Hub; try again while it is busy, and put its refusals in our words."""
        from huggingface_hub import constants
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

        from .client import ATTEMPTS, sound_proxies

        sound_proxies()  # what the libraries below say of one that is not an address would hold its password
        # It would also ask the Hub for a list by which it counts who uses it: a request that no header needs.
        constants.HF_HUB_DISABLE_TELEMETRY = True
        client = self._session.client
        for attempt in range(ATTEMPTS):
            try:
                return ask()
            except HFValidationError as error:
                raise SourceError(f"{shown}: {error}") from None
            except OfflineModeIsEnabled:
                raise SourceError(
                    f"{shown}: is not on this machine, and HF_HUB_OFFLINE says not to ask the Hub"
                ) from None
            except Exception as error:
                status = _status(error) if isinstance(error, HfHubHTTPError) else None
                if status is not None and status < 500 and status != 429:
                    raise self._refusal(error, shown) from None
                if not isinstance(error, HfHubHTTPError | OSError) and not _is_transport(error):
                    raise
                if attempt == ATTEMPTS - 1:
                    raise SourceError(
                        f"{shown}: {redacted(self._endpoint)} cannot be reached: {redacted_within(str(error))[:200]}"
                    ) from error
            time.sleep(min(client.patience.back_off * 2**attempt, client.remaining(shown)))
        raise AssertionError("the last attempt returns or raises")

    def _refusal(self, error: Exception, shown: str) -> SourceError:
        from huggingface_hub import errors

        login = "log in with `hf auth login` or set HF_TOKEN"
        if isinstance(error, errors.GatedRepoError):
            return SourceError(
                f"{shown}: is gated; accept its terms at {redacted(self._endpoint)}/{self._repo}, then {login}"
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return SourceError(f"{shown}: has no revision {self._revision!r}; see its branches on the Hub")
        if isinstance(error, errors.EntryNotFoundError):
            return Missing(
                f"{shown}: the repository has no such file; name it alone to see its files: hf.co/{self._repo}"
            )
        if isinstance(error, errors.RepositoryNotFoundError):
            return SourceError(
                f"{shown}: no such repository on the Hub, or it is private: check its name, or {login}"
            )
        return SourceError(f"{shown}: the Hub refuses: {redacted_within(str(error))[:200]}; {login}")


def _status(error: Any) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _is_transport(error: Exception) -> bool:
    """Whether the HTTP library below huggingface-hub raised it: which one that is depends on the version."""
    return type(error).__module__.partition(".")[0] in {
        "httpx",
        "httpx2",
        "httpcore",
        "httpcore2",
        "requests",
    }
