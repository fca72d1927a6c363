"""What people write to name a model → one of the nouns below. Pure: nothing is opened.

Every tool has its own way; `docs/references.md` shows all that are understood. Most say by a prefix where
the model is. What does not (`qwen2.5-coder:32b`, `user/repo:Q8_0`) becomes `Anywhere`: the stores of this
machine are asked first, then the one remote place that such a name belongs to.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import unquote, urlsplit, urlunsplit

from ..errors import SourceError

MAX_REFERENCE: Final = 4096
OLLAMA_HOST: Final = "registry.ollama.ai"

_FORMS: Final = (
    "write a path, a URL, hf.co/user/repo:Q8_0, hf://user/repo/file.gguf, ollama://name:tag, "
    "lmstudio://publisher/repo or - for standard input"
)


@dataclass(frozen=True, slots=True)
class PathName:
    """A file of this machine."""

    path: Path


@dataclass(frozen=True, slots=True)
class StandardInput:
    """What is piped in."""


@dataclass(frozen=True, slots=True)
class Url:
    """A file on a web server."""

    url: str


@dataclass(frozen=True, slots=True)
class HubName:
    """A model on the Hugging Face Hub: a file by its path in the repository, or one to choose there."""

    repo: str  # user/name
    revision: str = ""  # a branch, tag or commit; "" for the default branch
    filename: str = ""
    quant: str = ""  # a word of the file's name, as in "Q8_0"


@dataclass(frozen=True, slots=True)
class OllamaName:
    """A model of an Ollama registry (Ollama, types/model/name.go)."""

    model: str
    tag: str = "latest"
    namespace: str = "library"
    host: str = OLLAMA_HOST

    def __str__(self) -> str:
        """As Ollama shows it: without the parts that are the default."""
        parts = [self.host, self.namespace, self.model]
        if self.host == OLLAMA_HOST:
            parts = parts[1:] if self.namespace != "library" else parts[2:]
        return "/".join(parts) + ":" + self.tag


@dataclass(frozen=True, slots=True)
class LmStudioName:
    """A model in LM Studio's folder: publisher/repo, its key, or a file there."""

    text: str
    quant: str = ""


@dataclass(frozen=True, slots=True)
class Anywhere:
    """A name that does not say where: what it would be in each place."""

    text: str
    hub: HubName | None = None
    ollama: OllamaName | None = None
    lmstudio: LmStudioName | None = None
    filename: str = ""  # a bare file name, for folders that are flat
    remote: bool = True  # whether it is so clearly a name that asking a server is in order


Name: TypeAlias = PathName | StandardInput | Url | HubName | OllamaName | LmStudioName | Anywhere

# Texts, not compiled patterns: a path needs two of them, and `re` keeps those that were used.
_DIGEST: Final = r"@sha256:([0-9a-fA-F]{64})$"
_SCHEME: Final = r"([A-Za-z][A-Za-z0-9+.-]+):(?=//)|(hf|huggingface|ollama):"
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
_LMSTUDIO: Final = rf"{_WORD}@{_WORD}"  # key@quant
_OLLAMA_PART: Final = r"[A-Za-z0-9_][\w.-]{0,79}"
_OLLAMA: Final = (
    r"(?:(?:(?P<host>\w[\w.-]{0,340}(?::\d{1,5})?)/)?(?P<namespace>[A-Za-z0-9_][\w-]{0,79})/)?"
    rf"(?P<model>{_OLLAMA_PART})(?::(?P<tag>{_OLLAMA_PART}))?"
)


def shown(url: str) -> str:
    """`url` without what may be secret in it: user, password, query."""
    try:
        parts = urlsplit(url)
    except ValueError:  # no URL at all
        return url.partition("?")[0].rpartition("@")[2][:200]
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))[:200]


def split_digest(text: str) -> tuple[str, str]:
    """`text` without the `@sha256:...` behind it, and that digest in lower-case hex ("" without one)."""
    match = re.search(_DIGEST, text, re.ASCII)
    return (text[: match.start()], match[1].lower()) if match else (text, "")


def parse(text: str) -> Name:
    """What `text` names. A path that exists is that path, whatever else it could be.

    Raises `SourceError` when nothing is named like that.
    """
    if len(text) > MAX_REFERENCE:
        raise SourceError(f"{text[:80]}...: a reference of {len(text):,} characters names nothing; {_FORMS}")
    if not text.strip():
        raise SourceError(f"an empty reference names no model; {_FORMS}")
    if text == "-":
        return StandardInput()
    match = re.match(_SCHEME, text, re.ASCII)
    if match and not re.match(_DRIVE, text, re.ASCII):
        scheme = (match[1] or match[2]).lower()
        return _of_scheme(scheme, text[match.end() :].removeprefix("//"), text)
    if _is_path(text):
        return PathName(Path(os.path.expanduser(text) if "\0" not in text else text))
    host, _, rest = text.partition("/")
    if rest and host.lower() in _HUB_HOSTS:
        return _hub(rest, text)
    if rest and host.lower() in _OLLAMA_HOSTS:
        return _ollama(rest, text)
    return _anywhere(text)


def _is_path(text: str) -> bool:
    if text.startswith(("/", "./", "../", "~", ".\\", "..\\", "\\")) or re.match(_DRIVE, text, re.ASCII):
        return True
    return "\0" in text or os.path.lexists(text)  # no name has a zero byte: opening the path says so


def _of_scheme(scheme: str, rest: str, text: str) -> Name:
    reader = _SCHEMES.get(scheme)
    if reader is None:
        raise SourceError(f"{text}: models are not read from {scheme}: addresses; {_FORMS}")
    return reader(rest, text)


def _web(_: str, text: str) -> Name:
    """A URL: pages of the Hub and of Ollama's library stand for the models that they show."""
    try:
        parts = urlsplit(text)
        host, _port = (parts.hostname or "").lower(), parts.port
    except ValueError as error:
        raise SourceError(f"{text}: is no URL: {error}") from None
    if not host:
        raise SourceError(f"{text}: names no host")
    path = unquote(parts.path).strip("/")
    hub_host = urlsplit(os.environ.get("HF_ENDPOINT", "")).netloc.lower()
    if host in _HUB_HOSTS or (hub_host and parts.netloc.lower() == hub_host):
        return _hub(path, text)
    if host in _OLLAMA_HOSTS and not path.startswith("v2/"):
        return _ollama(path, text)
    return Url(text)


def _file(rest: str, text: str) -> Name:
    host, slash, path = rest.partition("/")
    if host.lower() not in ("", "localhost") or not slash:
        raise SourceError(f"{text}: file: URLs name files of this machine, as in file:///models/model.gguf")
    path = unquote(path)
    return PathName(Path(path if re.match(_DRIVE, path, re.ASCII) else f"/{path}"))


def _hub(rest: str, text: str) -> HubName:
    """A repository, with what a web page or a tool adds to its name."""
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
            f"{text}: {filename!r} is no .gguf file; name one, or the repository alone to see its files"
        )
    # LM Studio writes publisher/repo@q8_0 where others name a revision.
    if at and not page and not branch and re.fullmatch(_QUANT, at, re.ASCII):
        at, quant = "", quant or at
    return HubName(repo, unquote(branch or at), filename, quant)


def _ollama(rest: str, text: str) -> Name:
    """A name of Ollama's grammar; names under hf.co are repositories of the Hub, which answers for them."""
    host, _, path = rest.partition("/")
    if path and host.lower() in _HUB_HOSTS:
        return _hub(path, text)
    name = _ollama_name(rest.removeprefix("library/") if rest.count("/") == 1 else rest)
    if name is None:
        raise SourceError(
            f"{text}: is no name of an Ollama model; write ollama://[host/][namespace/]model[:tag]"
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


def _modelscope(rest: str, text: str) -> Name:
    match = re.fullmatch(_HUB, rest, re.ASCII)
    if not match or not match["file"]:
        raise SourceError(f"{text}: name the file too, as in modelscope://user/repo/file.gguf")
    revision = match["branch"] or match["at"] or "master"
    return Url(f"https://modelscope.cn/models/{match['repo']}/resolve/{revision}/{match['file']}")


_SCHEMES: Final[dict[str, Callable[[str, str], Name]]] = {
    "http": _web, "https": _web, "file": _file,
    "hf": _hub, "huggingface": _hub, "hf.co": _hub, "huggingface.co": _hub,
    "ollama": _ollama, "lmstudio": _lmstudio, "lm-studio": _lmstudio,
    "ms": _modelscope, "modelscope": _modelscope,
}  # fmt: skip


def _anywhere(text: str) -> Name:
    """A name without a place: Ollama's `model:tag`, the Hub's `user/repo`, a file of some folder."""
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
    return Anywhere(text, hub, ollama, LmStudioName(name, quant), remote=bool(hub or ollama) and not is_file)
