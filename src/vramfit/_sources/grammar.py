"""Read what people write to name a model as one of the nouns in `names`. Pure: nothing is opened.

Every tool has its own way; `docs/users/models.md` shows all that are understood. Most say by a prefix where
the model is. What does not (`qwen2.5-coder:32b`, `user/repo:Q8_0`) becomes `Anywhere`: the stores of this
machine are asked first, then the one remote place that such a name belongs to.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from .._base.errors import SourceError
from .names import (
    DOCKER_HOST,
    Anywhere,
    HubName,
    ImageName,
    LmStudioName,
    ModelScopeName,
    Name,
    OllamaName,
    PathName,
    StandardInput,
    Url,
)
from .redact import redacted

MAX_REFERENCE: Final = 4096

_FORMS: Final = (
    "write a path, a URL, hf.co/user/repo:Q8_0, hf://user/repo/file.gguf, ollama://name:tag, docker://ai/model:tag, "
    "ms://user/repo, lmstudio://publisher/repo or - for standard input"
)

# Texts, not compiled patterns: a path needs two of them, and `re` keeps those that were used.
_DIGEST: Final = r"@sha256:([0-9a-fA-F]{64})\Z"
_SCHEME: Final = r"([A-Za-z][A-Za-z0-9+.-]+):(?=//)|(hf|huggingface|ollama):"
_CONTROLS: Final = r"[\x00-\x1f\x7f-\x9f\u2028\u2029]"
_DRIVE: Final = r"[A-Za-z]:[\\/]"
_WORD: Final = r"[A-Za-z0-9][\w.-]{0,95}"
_QUANT: Final = r"(?i:UD-)?(?i:I?Q\d|TQ\d|BF16|FP?16|FP?32|MXFP4|NVFP4)[\w-]*"
_HUB: Final = (
    rf"(?P<repo>{_WORD}/{_WORD})(?:@(?P<at>[^:/#]+))?(?::(?P<quant>{_WORD}))?"
    r"(?:/(?P<file>[^#]+))?(?:#(?P<branch>.+))?"
)
_HUB_PAGE: Final = rf"({_WORD}/{_WORD})/(?:blob|resolve|raw|tree)/([^/]+)(?:/(.+))?"
_HUB_HOSTS: Final = frozenset({"hf.co", "huggingface.co", "www.huggingface.co"})
_OLLAMA_HOSTS: Final = frozenset({"ollama.com", "www.ollama.com", "registry.ollama.ai"})
_DOCKER_HOSTS: Final = frozenset({"docker.io", "index.docker.io", DOCKER_HOST})
_IMAGE_SCHEMES: Final = frozenset({"docker", "oci", "oras", "rlcr"})
_RAMALAMA: Final = "rlcr.io/ramalama"
_MODELSCOPE_HOSTS: Final = frozenset(
    {"modelscope.cn", "www.modelscope.cn", "modelscope.ai", "www.modelscope.ai"}
)
_MODELSCOPE_PAGE: Final = (
    rf"models/({_WORD}/{_WORD})(?:/(?:resolve|file/view)/([^/]+)/(.+)|/(?:summary|files))?"
)
_LMSTUDIO: Final = rf"{_WORD}@{_WORD}"  # key@quant
_OLLAMA_PART: Final = r"[A-Za-z0-9_][\w.-]{0,79}"
_OLLAMA: Final = (
    r"(?:(?:(?P<host>\w[\w.-]{0,340}(?::\d{1,5})?)/)?(?P<namespace>[A-Za-z0-9_][\w-]{0,79})/)?"
    rf"(?P<model>{_OLLAMA_PART})(?::(?P<tag>{_OLLAMA_PART}))?"
)
_IMAGE_PART: Final = r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*"
_IMAGE: Final = (
    r"(?:(?P<host>localhost|[\w-]+(?:\.[\w-]+)+|[\w.-]+(?=:\d))(?P<port>:\d{1,5})?/)?"
    rf"(?P<repository>{_IMAGE_PART}(?:/{_IMAGE_PART}){{0,15}})(?::(?P<tag>\w[\w.-]{{0,127}}))?"
    r"(?:@sha256:(?P<digest>[0-9a-fA-F]{64}))?"
)


def hub_endpoint() -> str:
    """Read which Hub the environment names, as llama.cpp (common.cpp:1463) and huggingface-hub do; "" for none."""
    return (os.environ.get("MODEL_ENDPOINT") or os.environ.get("HF_ENDPOINT") or "").rstrip("/")


def split_digest(text: str) -> tuple[str, str]:
    """Cut the `@sha256:...` from the end of `text`; return the rest and the digest in lower-case hex ("" without one).

    Behind the name of an image it is the manifest's digest, not a file's, and part of the name.
    """
    start = re.split(r"://|/", text, maxsplit=1)[0].lower()
    of_image = start in _DOCKER_HOSTS or start in _IMAGE_SCHEMES
    match = None if of_image else re.search(_DIGEST, text, re.ASCII)
    return (text[: match.start()], match[1].lower()) if match else (text, "")


def parse(text: str) -> Name:
    """Read what `text` names. A path that exists is that path, whatever else it could be.

    Raises `SourceError` when nothing is named like that.
    """
    if len(text) > MAX_REFERENCE:
        raise SourceError(
            f"{redacted(text)[:80]}...: a reference of {len(text):,} characters names nothing; {_FORMS}"
        )
    if not text.strip():
        raise SourceError(f"an empty reference names no model; {_FORMS}")
    if text == "-":
        return StandardInput()
    match = re.match(_SCHEME, text, re.ASCII)
    is_scheme = match and not re.match(_DRIVE, text, re.ASCII)
    if not is_scheme and _is_path(text):
        return PathName(Path(os.path.expanduser(text) if "\0" not in text else text))
    if re.search(_CONTROLS, text):
        raise SourceError(f"{redacted(text)!r}: a name holds no line breaks or other control characters")
    if match and is_scheme:
        scheme = (match[1] or match[2]).lower()
        return _of_scheme(scheme, text[match.end() :].removeprefix("//"), text)
    host, _, rest = text.partition("/")
    if rest and host.lower() in _HUB_HOSTS:
        return _hub(rest, text)
    if rest and host.lower() in _OLLAMA_HOSTS:
        return _ollama(rest, text)
    if rest and host.lower() in _DOCKER_HOSTS:
        return _image(text, text)
    return _anywhere(text)


def _is_path(text: str) -> bool:
    if text.startswith(("/", "./", "../", "~", ".\\", "..\\", "\\")) or re.match(_DRIVE, text, re.ASCII):
        return True
    return "\0" in text or os.path.lexists(text)  # no name has a zero byte: opening the path says so


def _of_scheme(scheme: str, rest: str, text: str) -> Name:
    """Read a name with a prefix. Its reader gets what follows (of a URL all of it) and what messages may show."""
    reader = _SCHEMES.get(scheme)
    if reader is None:
        raise SourceError(f"{redacted(text)}: models are not read from {scheme}: addresses; {_FORMS}")
    return reader(text if reader is _web else rest, redacted(text))


def _web(url: str, text: str) -> Name:
    """Read a URL: pages of the Hub and of Ollama's library stand for the models that they show."""
    try:
        parts = urlsplit(url)
        host, _port = (parts.hostname or "").lower(), parts.port
    except ValueError:  # it may say what it read for a host or port, which may be of a password
        raise SourceError(
            f"{text}: is not a URL; write https://host[:port]/model.gguf, and / @ ? # of a password as %2F %40 %3F %23"
        ) from None
    if not host:
        raise SourceError(f"{text}: names no host")
    path = unquote(parts.path).strip("/")
    if re.search(_CONTROLS, path):
        raise SourceError(f"{text}: a name holds no line breaks or other control characters")
    hub_host = urlsplit(hub_endpoint()).netloc.lower()
    if host in _HUB_HOSTS or (hub_host and parts.netloc.lower() == hub_host):
        return _hub(path, text)
    if host in _OLLAMA_HOSTS and not path.startswith("v2/"):
        return _ollama(path, text)
    if host == "hub.docker.com" and path.startswith("r/"):
        return _image(path.removeprefix("r/"), text)
    page = re.fullmatch(_MODELSCOPE_PAGE, path, re.ASCII) if host in _MODELSCOPE_HOSTS else None
    return _modelscope_file(ModelScopeName(page[1], page[2] or "", page[3] or ""), text) if page else Url(url)


def _file(rest: str, text: str) -> Name:
    host, slash, path = rest.partition("/")
    if host.lower() not in ("", "localhost") or not slash:
        raise SourceError(f"{text}: file: URLs name files of this machine, as in file:///models/model.gguf")
    path = unquote(path)
    return PathName(Path(path if re.match(_DRIVE, path, re.ASCII) else f"/{path}"))


def _hub(rest: str, text: str) -> HubName:
    """Read the name of a repository, with what a web page or a tool adds to it."""
    rest = rest.partition("?")[0].strip("/")
    page = re.fullmatch(_HUB_PAGE, rest, re.ASCII)
    if page:
        filename, at, quant, branch = page[3] or "", page[2], "", ""
        repo = page[1]
    else:
        match = re.fullmatch(_HUB, rest, re.ASCII)
        if not match:
            raise SourceError(
                f"{text}: names no repository of the Hub; write hf.co/user/repo:Q8_0 or hf://user/repo/file.gguf"
            )
        repo, at, quant, filename, branch = (
            match[k] or "" for k in ("repo", "at", "quant", "file", "branch")
        )  # fmt: skip
    if filename and not filename.endswith(".gguf"):
        raise SourceError(
            f"{text}: {filename!r} is not a .gguf file; name one, or the repository alone to see its files"
        )
    # LM Studio writes publisher/repo@q8_0 where others name a revision.
    if at and not page and not branch and re.fullmatch(_QUANT, at, re.ASCII):
        at, quant = "", quant or at
    return HubName(repo, unquote(branch or at), filename, quant)


def _ollama(rest: str, text: str) -> Name:
    """Read a name of Ollama's grammar; names under hf.co are repositories of the Hub, which answers for them."""
    host, _, path = rest.partition("/")
    if path and host.lower() in _HUB_HOSTS:
        return _hub(path, text)
    name = _ollama_name(rest.removeprefix("library/") if rest.count("/") == 1 else rest)
    if name is None:
        raise SourceError(
            f"{text}: is not the name of an Ollama model; write ollama://[host/][namespace/]model[:tag]"
        )
    return name


def _ollama_name(text: str) -> OllamaName | None:
    match = re.fullmatch(_OLLAMA, text, re.ASCII)
    return OllamaName(**{k: v for k, v in match.groupdict().items() if v}) if match else None


def _lmstudio(rest: str, text: str) -> Name:
    name, at, quant = rest.partition("@")
    if not at:
        name, _, quant = rest.partition(":")
    if not name or ".." in name.split("/"):
        raise SourceError(f"{text}: names no model; write lmstudio://publisher/repo@q8_0")
    return LmStudioName(name, quant)


def _image(rest: str, text: str) -> Name:
    """Read an image's name. One of the Hub is a repository there; Docker Hub keeps models under ai/."""
    host, _, path = rest.partition("/")
    if path and host.lower() in _HUB_HOSTS:
        return _hub(path, text)
    match = re.fullmatch(_IMAGE, rest, re.ASCII)
    if match is None:
        raise SourceError(f"{text}: is not the name of an image; write docker://[host/]ai/model[:tag]")
    host, repository = (match["host"] or "").lower() + (match["port"] or ""), match["repository"]
    if host in _DOCKER_HOSTS or not host:
        host = DOCKER_HOST
        repository = repository if "/" in repository else f"ai/{repository}"  # as llama.cpp, download.cpp:854
    return ImageName(repository, match["tag"] or "latest", host, (match["digest"] or "").lower())


def _ramalama(rest: str, text: str) -> Name:
    return _image(f"{_RAMALAMA}/{rest}", text)


def _modelscope(rest: str, text: str) -> Name:
    match = re.fullmatch(_HUB, rest.strip("/"), re.ASCII)
    if not match:
        raise SourceError(f"{text}: names no repository; write modelscope://user/repo/file.gguf")
    revision = match["branch"] or match["at"] or ""
    return _modelscope_file(
        ModelScopeName(match["repo"], revision, match["file"] or "", match["quant"] or ""), text
    )


def _modelscope_file(name: ModelScopeName, text: str) -> ModelScopeName:
    if name.filename and not name.filename.endswith(".gguf"):
        raise SourceError(f"{text}: {name.filename!r} is not a .gguf file; name one, or the repository alone")
    return name


_SCHEMES: Final[dict[str, Callable[[str, str], Name]]] = {
    "http": _web, "https": _web, "file": _file,
    "hf": _hub, "huggingface": _hub, "hf.co": _hub, "huggingface.co": _hub,
    "ollama": _ollama, "lmstudio": _lmstudio, "lm-studio": _lmstudio,
    "ms": _modelscope, "modelscope": _modelscope,
    "docker": _image, "oci": _image, "oras": _image, "rlcr": _ramalama,
}  # fmt: skip


def _anywhere(text: str) -> Name:
    """Read a name without a place: Ollama's `model:tag`, the Hub's `user/repo`, a file of some folder."""
    first = text.partition("/")[0]
    if text.count("/") >= 2 and ("." in first or ":" in first):
        return _ollama(text, text)  # the first part can only be a host
    is_file = text.lower().endswith(".gguf")
    if is_file and not set(text) & set("/\\"):
        return Anywhere(text, lmstudio=LmStudioName(text), filename=text, remote=False)
    hub = _hub(text, text) if re.fullmatch(_HUB, text, re.ASCII) else None
    ollama = None if is_file or "@" in text else _ollama_name(text)
    if is_file and not hub:
        return PathName(Path(text))
    if not (hub or ollama or re.fullmatch(_LMSTUDIO, text, re.ASCII)):
        raise SourceError(f"{text}: no such file, and no model is named like that; {_FORMS}")
    name, _, quant = text.partition("@" if "@" in text else ":")
    return Anywhere(
        text,
        hub,
        ollama,
        LmStudioName(name, quant),
        _docker_model(text),
        remote=bool(hub or ollama) and not is_file,
    )


def _docker_model(text: str) -> ImageName | None:
    """Read `ai/model:tag` as an image: Docker Hub keeps models, and nothing else, under ai/."""
    found = _image(text, text) if re.fullmatch(rf"ai/{_IMAGE_PART}(?::\w[\w.-]*)?", text, re.ASCII) else None
    return found if isinstance(found, ImageName) else None
