"""What a reference can name: one noun for each place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

OLLAMA_HOST: Final = "registry.ollama.ai"
DOCKER_HOST: Final = "registry-1.docker.io"


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
        """Write the name as Ollama shows it: without the parts that are the default."""
        parts = [self.host, self.namespace, self.model]
        if self.host == OLLAMA_HOST:
            parts = parts[1:] if self.namespace != "library" else parts[2:]
        return "/".join(parts) + ":" + self.tag


@dataclass(frozen=True, slots=True)
class ImageName:
    """A model in a container registry."""

    repository: str  # "ai/smollm2"
    tag: str = "latest"
    host: str = DOCKER_HOST
    digest: str = ""  # sha256 of its manifest in lower-case hex; stands for the tag


@dataclass(frozen=True, slots=True)
class ModelScopeName:
    """A model on ModelScope: a file by its path in the repository, or one to choose there."""

    repo: str  # user/name
    revision: str = ""  # "" for the default branch
    filename: str = ""
    quant: str = ""  # a word of the file's name


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
    image: ImageName | None = None
    filename: str = ""  # a bare file name, for folders that are flat
    remote: bool = True  # whether it is so clearly a name that asking a server is in order


Name: TypeAlias = (
    PathName | StandardInput | Url | HubName | OllamaName | ImageName | ModelScopeName | LmStudioName | Anywhere
)  # fmt: skip
