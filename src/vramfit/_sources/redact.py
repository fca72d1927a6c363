"""Hide what may be secret in an address: the one place that decides it.

Users, passwords, queries and fragments are tokens as often as not. An address goes through here before it stands in
a name, an error, a warning, a line of progress or a log; keys of the cache are written nowhere.
"""

from __future__ import annotations

import re
from typing import Final

# Schemes that stand before a model's name: what follows an @ is a revision, a quantization or a digest.
NAME_SCHEMES: Final = frozenset({
    "hf", "huggingface", "hf.co", "huggingface.co", "ollama", "lmstudio", "lm-studio", "ms", "modelscope",
    "docker", "oci", "oras", "rlcr",
})  # fmt: skip
_MAX_SHOWN: Final = 200
_DIGEST: Final = r"@sha256:[0-9a-fA-F]{64}\Z"
_ADDRESS: Final = r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+"
_HOST: Final = r"[^:\[\]]*|(\[[0-9A-Fa-f:.]+\]|localhost|[^:\[\]]+\.[^:\[\]]+)(:\d{0,5})?"


def redacted(text: str) -> str:
    """Hide what may be secret in `text`, where it is an address: user, password, query.

    Where a password holds what should have been escaped, nobody can tell where it ends: all before the last @ is hidden.
    """
    scheme, mark, rest = text.partition("://")
    if not mark and re.match(r"\s*https?:", text, re.IGNORECASE):
        scheme, mark, rest = text.partition(":")
    if not mark or (scheme.lower() == "file" and rest.startswith("/")):
        return text
    if scheme.lower() in NAME_SCHEMES:
        return f"{scheme}://{_without_password(rest)}"
    return f"{scheme}://{_without_user(rest)}"[:_MAX_SHOWN]


def redacted_within(message: str) -> str:
    """Redact the addresses in what another library says."""
    return re.sub(_ADDRESS, lambda match: redacted(match[0]), message)


def _without_user(rest: str) -> str:
    """Cut user, password, query and fragment from what follows the scheme of a URL."""
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    beyond = rest[len(authority) :]
    # In "user:12/34@host" the password looks like a port and a path; a host with a dot and a port is one.
    if "@" in beyond and ("@" in authority or not re.fullmatch(_HOST, authority)):
        return "***@" + _before_query(rest.rpartition("@")[2])
    return authority.rpartition("@")[2] + _before_query(beyond)


def _without_password(rest: str) -> str:
    """Cut a user and password that do not belong there from what follows the scheme of a model's name."""
    digest = re.search(_DIGEST, rest)
    name = rest[: digest.start()] if digest else rest
    head, _, tail = name.rpartition("@")
    if ":" in head:
        name = "***@" + tail
    return name.partition("?")[0] + (digest[0] if digest else "")


def _before_query(text: str) -> str:
    return re.split("[?#]", text, maxsplit=1)[0]
