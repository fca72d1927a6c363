"""The options that name a model → its reference: files, URLs and repositories are named by flags of their own.

Names are those of llama.cpp's flags (common/arg.cpp), then gguf-parser's, without dashes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from .._base.errors import SettingsError
from .._llama.flags import find

__all__ = ["FILES", "PLACES", "by_flags", "reference_of"]

# Options, and what stands before their value in a reference.
PLACES: Final = {
    "argument": "", "model": "", "model_url": "", "hf_repo": "hf://", "docker_repo": "docker://", "ms_repo": "ms://",
    "ol_model": "ollama://",
}  # fmt: skip
FILES: Final = {
    "hf_repo": "hf_file",
    "ms_repo": "ms_file",
}  # the file of a repository, by an option of its own


def reference_of(names: Mapping[str, str | None]) -> str:
    """Make the one reference that options name, "" where none does.

    Raises `SettingsError` for two models, and for a file whose repository is not named.
    """
    values = dict(names)
    for repo, file in FILES.items():
        if values.get(file) and not values.get(repo):
            option = f"--{file.replace('_', '-')}"
            raise SettingsError(f"{option} {values[file]} needs --{repo.replace('_', '-')} USER/REPO")
        if values.get(file):
            values[repo] = f"{str(values[repo]).partition(':')[0]}/{values[file]}"
    given = [f"{prefix}{values[option]}" for option, prefix in PLACES.items() if values.get(option)]
    if len(given) > 1:
        from .redact import redacted

        raise SettingsError(f"two models given: {redacted(given[0])} and {redacted(given[1])}")
    return given[0] if given else ""


def by_flags(words: Sequence[str]) -> tuple[str, str]:
    """Read the flags that name a model, each with its value, as `Line.model` holds them: the reference, and a token of the Hub.

    Raises as `reference_of` does.
    """
    names: dict[str, str | None] = {}
    for flag, value in zip(words[::2], words[1::2], strict=True):
        known = find(flag)
        assert known is not None, flag
        names[known[0].names[-1].lstrip("-").replace("-", "_")] = value
    token = names.pop("hf_token", None) or ""
    return reference_of(names), token
