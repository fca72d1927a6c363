"""Find the model that a name means: in the stores of this machine first, then in the one remote place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from .._base.errors import SourceError
from . import folders, names, ollama
from .nouns import Located
from .origin import File, Missing, Origin
from .paths import local_file, standard_input
from .redact import redacted
from .session import Session


def locate(name: names.Name, text: str, session: Session) -> Located:
    """Find the model that `name` means; `text` is what messages call it."""
    if session.revision:
        name = _at_revision(name, text, session.revision)
    if isinstance(name, names.PathName):
        return Located(local_file(name.path))
    if isinstance(name, names.StandardInput):
        return Located(standard_input())
    if isinstance(name, names.Url):
        return Located(_url(name.url, session))
    if isinstance(name, names.HubName):
        return _hub(name, text, session)
    if isinstance(name, names.OllamaName):
        return ollama.in_stores(name, text) or ollama.in_registry(name, text, session)
    if isinstance(name, names.ImageName):
        return _image(name, text, session)
    if isinstance(name, names.ModelScopeName):
        return _modelscope(name, text, session)
    if isinstance(name, names.LmStudioName):
        return folders.in_lmstudio(name, text) or _not_in_lmstudio(text)
    return _anywhere(name, text, session)


def _at_revision(name: names.Name, text: str, revision: str) -> names.Name:
    hub = name.hub if isinstance(name, names.Anywhere) else name
    if not isinstance(hub, names.HubName | names.ModelScopeName):
        raise SourceError(
            f"{text}: only models of the Hugging Face Hub and of ModelScope have revisions; leave out {revision!r}"
        )
    return replace(hub, revision=revision)


def _hub(name: names.HubName, text: str, session: Session) -> Located:
    local = folders.in_hub_cache(name, text) or _pulled_from_hub(name, text)
    if local:
        return local
    from .hub import on_hub

    return on_hub(name, text, session)


def _pulled_from_hub(name: names.HubName, text: str) -> Located | None:
    """Find a repository that Ollama pulled: it keeps it under the Hub's host name."""
    if name.filename or name.revision:
        return None
    user, _, repo = name.repo.partition("/")
    for host in ("hf.co", "huggingface.co"):
        found = ollama.in_stores(names.OllamaName(repo, name.quant or "latest", user, host), text)
        if found:
            return found
    return None


def _image(name: names.ImageName, text: str, session: Session) -> Located:
    # the name under which llama.cpp keeps what it pulled (download.cpp:915)
    pulled = f"{name.repository.replace('/', '_')}_{name.tag}.gguf"
    local = None if name.digest else folders.by_filename(pulled, text)
    if local:
        return local
    from . import images

    return images.in_registry(name, text, session)


def _modelscope(name: names.ModelScopeName, text: str, session: Session) -> Located:
    local = folders.in_modelscope_cache(name, text)
    if local:
        return local
    from . import modelscope

    url, companions = modelscope.find(name, text, session)
    return Located(_url(url, session), companions)


def _anywhere(name: names.Anywhere, text: str, session: Session) -> Located:
    for found in _on_this_machine(name, text):
        if found:
            return found
    if not name.remote:
        hint = f"; for a file of the Hub write hf.co/{text}" if name.hub else ""
        raise Missing(f"{text}: no such file{hint}")
    if name.image:
        return _image(name.image, text, session)
    if name.hub:
        from .hub import on_hub

        return on_hub(name.hub, text, session)
    assert name.ollama is not None
    return ollama.in_registry(name.ollama, text, session)


def _on_this_machine(name: names.Anywhere, text: str) -> Iterator[Located | None]:
    if name.ollama:
        yield ollama.in_stores(name.ollama, text)
    if name.lmstudio:
        yield folders.in_lmstudio(name.lmstudio, text)
    if name.hub:
        yield folders.in_hub_cache(name.hub, text) or _pulled_from_hub(name.hub, text)
    if name.filename:
        yield folders.by_filename(name.filename, text)


def _not_in_lmstudio(text: str) -> Located:
    choices = folders.lmstudio_choices()
    listed = [f"lmstudio://{c}" for c in sorted(choices)[:40]]
    raise SourceError(
        f"{text}: LM Studio has no such model, or several" + ("; it has:" if listed else ""), *listed
    )


def _url(url: str, session: Session) -> File:
    """Make the file at a URL; the shards beside it have the same address but for the last part."""
    parts = urlsplit(url)
    folder, _, filename = parts.path.rpartition("/")
    address = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))

    def open_it(etag: str) -> AbstractContextManager[Origin | None]:
        from . import web

        auth = web.basic_auth(parts.username, parts.password)
        return web.open_url(session.client, address, redacted(url), auth=auth, etag=etag)

    def beside(other: str) -> File:
        return _url(
            urlunsplit((parts.scheme, parts.netloc, f"{folder}/{quote(other)}", parts.query, "")), session
        )

    return File(redacted(url), unquote(filename), open_it, beside, key=("url", url))


def check_digest(located: Located, digest: str) -> None:
    """Refuse a file that is not the one `digest` (sha256, hex) names: by its bytes where they are here, else
    by what its place announces.
    """
    from hashlib import sha256

    file = located.file
    if file.path:
        with file.open("") as origin:
            assert origin is not None
            found, step = sha256(), 1 << 20
            while chunk := origin.stream.read(step):
                found.update(chunk)
        is_digest = found.hexdigest()
    elif file.digest:
        is_digest = file.digest
    else:
        raise SourceError(
            f"{file.name}: is not on this machine and its server announces no sha256, so that its digest cannot be "
            "compared; leave it out, or download the file"
        )
    if is_digest != digest:
        raise SourceError(f"{file.name}: is another file: its sha256 is {is_digest}, not {digest}")
