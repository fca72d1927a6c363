"""Choose which of the files in a repository or folder is meant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from .._base.errors import SourceError

# Files that go with a model and are none (llama.cpp, common/download.cpp, gguf_filename_is_model).
_NOT_MODELS: Final = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
_LATER_SHARD: Final = re.compile(r"-(?!0*1-of-)\d{5,}-of-\d{5,}\.gguf$")
_SHOWN: Final = 40


def models(files: Iterable[str]) -> list[str]:
    """Select the files that are models, each split one by its first shard."""
    return sorted(
        f
        for f in files
        if f.endswith(".gguf")
        and f.isprintable()
        and not any(word in f.rpartition("/")[2].lower() for word in _NOT_MODELS)
        and not _LATER_SHARD.search(f)
    )


def projectors(files: Iterable[str]) -> list[str]:
    """Select the files that are vision or audio projectors."""
    return sorted(f for f in files if f.endswith(".gguf") and "mmproj" in f.rpartition("/")[2].lower())


def matching(files: Iterable[str], quant: str) -> list[str]:
    """Select the models whose name says `quant`: the whole word, in either case; all of them for "" and "latest".

    A file may also be named as it is, with or without its ending.
    """
    found = models(files)
    if quant.lower() in ("", "latest"):
        return found
    exact = [f for f in found if quant.lower() in (f.lower(), f[:-5].lower(), f.rpartition("/")[2].lower())]
    if exact:
        return exact
    word = re.compile(rf"(?:^|[-._/]){re.escape(quant)}[-./]", re.IGNORECASE)
    named = [f for f in found if word.search(f)]
    # "Q4_K_XL" also names "UD-Q4_K_XL"; where there are both, the plain one is meant.
    plain = [f for f in named if not re.search(rf"UD-{re.escape(quant)}[-./]", f, re.IGNORECASE)]
    return plain or named


def choose(files: Iterable[str], quant: str, name: str, write: str) -> str:
    """Choose the one file that is meant. `write` shows how to name one: "hf.co/user/repo/{}".

    Raises `SourceError` that lists the choices when it could be several, or none is.
    """
    files = list(files)
    found = matching(files, quant)
    if len(found) == 1:
        return found[0]
    choices = found or models(files)
    if not choices:
        raise SourceError(
            f"{name}: holds no GGUF model; look for a conversion of it, often called <model>-GGUF"
        )
    problem = f"holds {len(found)} models" if found else f"holds no {quant}"
    listed = [write.format(f) for f in choices[:_SHOWN]]
    more = [f"... and {len(choices) - _SHOWN} more"] if len(choices) > _SHOWN else []
    raise SourceError(f"{name}: {problem}; name one of its files:", *listed, *more)
