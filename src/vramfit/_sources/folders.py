"""Find models in the folders of other programs on this machine: Hugging Face, llama.cpp, LM Studio, ModelScope."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Final

from .cache import home, platform_caches
from .choose import matching, projectors
from .names import HubName, LmStudioName, ModelScopeName
from .nouns import Companion, Located
from .paths import local_file, start_of

_MAX_FILES: Final = 20_000  # of one folder; nobody has as many models
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


def hub_caches() -> Iterator[Path]:
    """List where llama.cpp (hf-cache.cpp:33-61) and huggingface-hub keep what they downloaded."""
    if os.environ.get("LLAMA_CACHE"):
        yield Path(os.path.expanduser(os.environ["LLAMA_CACHE"]))
    hub_home = os.environ.get("HF_HOME")
    chosen = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if chosen:
        yield Path(os.path.expanduser(chosen))
    elif hub_home:
        yield Path(os.path.expanduser(hub_home)) / "hub"
    else:
        yield Path(os.environ.get("XDG_CACHE_HOME") or home() / ".cache") / "huggingface" / "hub"


def in_hub_cache(name: HubName, text: str) -> Located | None:
    """Find the file that `name` means among those downloaded from the Hub; None when it is not clear which."""
    for cache in hub_caches():
        repo = cache / f"models--{name.repo.replace('/', '--')}"
        snapshot = _snapshot(repo, name.revision or "main")
        if snapshot is not None:
            found = _pick(_files(snapshot), name.filename, name.quant, text, repo)
            if found:
                return found
    return None if name.revision else _in_flat_cache(name, text)


def _snapshot(repo: Path, revision: str) -> Path | None:
    """Find the folder of the files of a revision."""
    if _COMMIT.fullmatch(revision):
        commit = revision
    else:
        try:
            commit = start_of(repo / "refs" / revision, 80).decode("utf-8", "replace").strip()
        except (OSError, ValueError):
            return None
    snapshot = repo / "snapshots" / commit
    return snapshot if _COMMIT.fullmatch(commit) and snapshot.is_dir() else None


def flat_caches() -> Iterator[Path]:
    """List where llama.cpp keeps single files (common.cpp:985), and older ones keep all."""
    chosen = os.environ.get("LLAMA_CACHE")
    yield Path(os.path.expanduser(chosen)) if chosen else platform_caches() / "llama.cpp"


def _in_flat_cache(name: HubName, text: str) -> Located | None:
    """Find a file as llama.cpp kept repositories before its cache became that of the Hub: user_repo_file.gguf."""
    prefix = name.repo.replace("/", "_") + "_"
    for folder in flat_caches():
        files = {
            k.removeprefix(prefix): v for k, v in _files(folder, depth=1).items() if k.startswith(prefix)
        }
        found = _pick(files, name.filename.replace("/", "_"), name.quant, text, folder)
        if found:
            return found
    return None


def by_filename(filename: str, text: str) -> Located | None:
    """Find a file in the folder of llama.cpp's downloads."""
    for folder in flat_caches():
        path = folder / filename
        if path.is_file():
            return Located(local_file(path, name=text, within=folder))
    return None


def in_modelscope_cache(name: ModelScopeName, text: str) -> Located | None:
    """Find the file that `name` means among those that ModelScope's own tools downloaded; they keep one revision."""
    chosen = os.environ.get("MODELSCOPE_CACHE")
    base = Path(os.path.expanduser(chosen)) if chosen else home() / ".cache" / "modelscope" / "hub"
    for folder in (base / "models" / name.repo, base / name.repo):
        found = None if name.revision else _pick(_files(folder), name.filename, name.quant, text, folder)
        if found:
            return found
    return None


def lmstudio_folders() -> Iterator[Path]:
    """List where LM Studio keeps models: under its home, which a file in the person's home names if it was moved."""
    try:
        moved = start_of(home() / ".lmstudio-home-pointer", 4096).decode("utf-8").strip()
    except (OSError, ValueError):
        moved = ""
    if moved:
        yield Path(moved) / "models"
    yield home() / ".lmstudio" / "models"
    yield home() / ".cache" / "lm-studio" / "models"


def in_lmstudio(name: LmStudioName, text: str) -> Located | None:
    """Find a model by publisher/repo, by publisher/repo/file, by its key (the repo's name) or by its file's name."""
    wanted = name.text.lower().strip("/")
    for folder in lmstudio_folders():
        files = {k: v for k, v in _files(folder, depth=3).items() if k.count("/") == 2}
        mine = {k: v for k, v in files.items() if wanted in _names(k)}
        found = _pick(mine, "", name.quant, text, folder)
        if found:
            return found
    return None


def lmstudio_choices() -> list[str]:
    """List all models in LM Studio's folders, for messages."""
    return [k for folder in lmstudio_folders() for k in _files(folder, depth=3) if k.count("/") == 2]


def _names(key: str) -> set[str]:
    """List what the file publisher/repo/file.gguf may be called."""
    publisher, repo, filename = key.lower().split("/")
    plain = re.sub(r"[-_.]gguf$", "", repo)
    return {
        key.lower(), f"{publisher}/{repo}", f"{publisher}/{plain}", repo, plain, filename, filename[:-5],
    }  # fmt: skip


def _pick(files: Mapping[str, Path], filename: str, quant: str, text: str, store: Path) -> Located | None:
    """Choose the one of `files` that is meant, if one is."""
    found = [f for f in files if f == filename] if filename else matching(files, quant)
    if len(found) != 1:
        return None
    folder = found[0].rpartition("/")[0]
    companions = (
        Companion("projector", f, _size(files[f]), files[f])
        for f in projectors(files)
        if f.rpartition("/")[0] == folder
    )
    path = files[found[0]]
    return Located(
        local_file(path, name=text if path.name in text else f"{text} ({path.name})", within=store),
        tuple(companions),
    )


def _files(folder: Path, depth: int = 4) -> dict[str, Path]:
    """List the GGUF files below `folder` by their path in it, links to folders not followed."""
    found: dict[str, Path] = {}
    for place, folders, files in islice(os.walk(folder), _MAX_FILES):
        below = Path(place).relative_to(folder)
        if len(below.parts) >= depth - 1:
            folders.clear()
        for name in files:
            if name.endswith(".gguf") and len(found) < _MAX_FILES:
                found[(below / name).as_posix()] = Path(place) / name
    return found


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
