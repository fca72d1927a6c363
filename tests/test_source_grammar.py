"""What people write to name a model, and what it means."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramfit import _sources as source
from vramfit._base.errors import SourceError
from vramfit._sources import grammar
from vramfit._sources.grammar import parse, split_digest
from vramfit._sources.names import (
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

Q8 = HubName("user/repo", quant="Q8_0")
FILE = HubName("user/repo", filename="q8/m.gguf")

NAMES: dict[str, Name] = {
    # paths
    "/models/m.gguf": PathName(Path("/models/m.gguf")),
    "./m": PathName(Path("./m")),
    "../user/repo": PathName(Path("../user/repo")),
    "C:\\models\\m.gguf": PathName(Path("C:\\models\\m.gguf")),
    "models\\m.gguf": PathName(Path("models\\m.gguf")),
    "file:///models/a%20b.gguf": PathName(Path("/models/a b.gguf")),
    "file://localhost/models/m.gguf": PathName(Path("/models/m.gguf")),
    "-": StandardInput(),
    # the Hub, as Ollama, llama.cpp, huggingface-hub, node-llama-cpp, LocalAI, RamaLama and browsers write it
    "hf.co/user/repo:Q8_0": Q8,
    "huggingface.co/user/repo:Q8_0": Q8,
    "hf://user/repo:Q8_0": Q8,
    "hf:user/repo:Q8_0": Q8,
    "huggingface:user/repo:Q8_0": Q8,
    "https://hf.co/user/repo:Q8_0": Q8,
    "ollama://hf.co/user/repo:Q8_0": Q8,
    "huggingface://user/repo/q8/m.gguf": FILE,
    "hf://user/repo/q8/m.gguf": FILE,
    "hf://user/repo@v1/q8/m.gguf": HubName("user/repo", "v1", "q8/m.gguf"),
    "hf://user/repo@refs%2Fpr%2F1/m.gguf": HubName("user/repo", "refs/pr/1", "m.gguf"),
    "hf:user/repo/q8/m.gguf#v1": HubName("user/repo", "v1", "q8/m.gguf"),
    "hf.co/user/repo@q8_0": HubName("user/repo", quant="q8_0"),
    "https://huggingface.co/user/repo": HubName("user/repo"),
    "https://huggingface.co/user/repo/tree/v1": HubName("user/repo", "v1"),
    "https://huggingface.co/user/repo/blob/main/q8/m.gguf": HubName("user/repo", "main", "q8/m.gguf"),
    "https://huggingface.co/user/repo/resolve/v1/m.gguf?download=true": HubName("user/repo", "v1", "m.gguf"),
    # Ollama
    "ollama://m": OllamaName("m"),
    "ollama:m:7b": OllamaName("m", "7b"),
    "ollama://me/m:7b": OllamaName("m", "7b", "me"),
    "ollama://library/m:7b": OllamaName("m", "7b"),
    "registry.example.com/me/m:7b": OllamaName("m", "7b", "me", "registry.example.com"),
    "localhost:5000/me/m": OllamaName("m", "latest", "me", "localhost:5000"),
    "https://ollama.com/library/m:7b": OllamaName("m", "7b"),
    "https://ollama.com/me/m": OllamaName("m", "latest", "me"),
    "ollama.com/library/m": OllamaName("m"),
    # LM Studio
    "lmstudio://publisher/repo@q8_0": LmStudioName("publisher/repo", "q8_0"),
    "lmstudio://publisher/repo/m.gguf": LmStudioName("publisher/repo/m.gguf"),
    # container registries, as llama.cpp, Docker Model Runner, ORAS and RamaLama write them
    "docker://smollm2": ImageName("ai/smollm2"),
    "docker://ai/smollm2:135M-Q4_K_M": ImageName("ai/smollm2", "135M-Q4_K_M"),
    "docker.io/ai/smollm2": ImageName("ai/smollm2"),
    f"docker.io/ai/smollm2@sha256:{'A' * 64}": ImageName("ai/smollm2", digest="a" * 64),
    f"oci://ghcr.io/me/models/m:7b@sha256:{'a' * 64}": ImageName("me/models/m", "7b", "ghcr.io", "a" * 64),
    "https://hub.docker.com/r/ai/smollm2": ImageName("ai/smollm2"),
    "oci://quay.io/me/m": ImageName("me/m", "latest", "quay.io"),
    "oras://localhost:5000/m:7b": ImageName("m", "7b", "localhost:5000"),
    "rlcr://gpt-oss-20b": ImageName("ramalama/gpt-oss-20b", host="rlcr.io"),
    "docker://hf.co/user/repo:Q8_0": Q8,
    # ModelScope, and anything else with an address
    "ms://user/repo/m.gguf": ModelScopeName("user/repo", filename="m.gguf"),
    "ms://user/repo:Q8_0": ModelScopeName("user/repo", quant="Q8_0"),
    "modelscope://user/repo@v1/q8/m.gguf": ModelScopeName("user/repo", "v1", "q8/m.gguf"),
    "https://www.modelscope.cn/models/user/repo": ModelScopeName("user/repo"),
    "https://modelscope.cn/models/user/repo/summary": ModelScopeName("user/repo"),
    "https://modelscope.cn/models/user/repo/file/view/master/q8%2Fm.gguf?status=2": ModelScopeName(
        "user/repo", "master", "q8/m.gguf"
    ),
    "https://modelscope.cn/models/user/repo/resolve/v1/m.gguf": ModelScopeName("user/repo", "v1", "m.gguf"),
    "https://modelscope.cn/api/v1/x.gguf": Url("https://modelscope.cn/api/v1/x.gguf"),
    "https://example.com/m.gguf?key=1": Url("https://example.com/m.gguf?key=1"),
    "http://127.0.0.1:8080/m.gguf": Url("http://127.0.0.1:8080/m.gguf"),
}


@pytest.mark.parametrize("text", NAMES)
def test_names(text: str, alone: Path) -> None:
    assert parse(text) == NAMES[text]


@pytest.mark.parametrize(
    ("text", "ollama", "hub", "lmstudio", "filename"),
    [
        ("m", OllamaName("m"), None, "m", ""),
        ("qwen2.5-coder:32b", OllamaName("qwen2.5-coder", "32b"), None, "qwen2.5-coder", ""),
        ("user/repo", OllamaName("repo", namespace="user"), HubName("user/repo"), "user/repo", ""),
        ("user/repo:Q8_0", OllamaName("repo", "Q8_0", "user"), Q8, "user/repo", ""),
        ("user/repo@q8_0", None, HubName("user/repo", quant="q8_0"), "user/repo", ""),
        ("user/repo/q8/m.gguf", None, FILE, "user/repo/q8/m.gguf", ""),
        ("m.gguf", None, None, "m.gguf", "m.gguf"),
    ],
)
def test_names_that_do_not_say_where(
    text: str, ollama: OllamaName | None, hub: HubName | None, lmstudio: str, filename: str, alone: Path
) -> None:
    """Each place where such a name may be looked for; a server is asked only for what is not a file name."""
    found = parse(text)
    assert isinstance(found, Anywhere)
    assert (found.ollama, found.hub, found.filename) == (ollama, hub, filename)
    assert found.lmstudio is not None
    assert found.lmstudio.text == lmstudio
    assert found.remote is not text.endswith(".gguf")


def test_docker_models_that_do_not_say_where() -> None:
    """Docker Hub keeps models under ai/: such a name is looked for there, once it is not here."""
    found = parse("ai/smollm2:135M-Q4_K_M")
    assert isinstance(found, Anywhere)
    assert found.image == ImageName("ai/smollm2", "135M-Q4_K_M")
    other = parse("user/smollm2:135M-Q4_K_M")
    assert isinstance(other, Anywhere)
    assert other.image is None


def test_a_path_that_exists_is_that_path(alone: Path) -> None:
    (alone / "user").mkdir()
    for name in ("m:7b", "user/repo"):
        (alone / name).touch()
        assert parse(name) == PathName(Path(name))


def test_the_configured_hub_is_the_hub(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example.com:8443/")
    assert parse("https://mirror.example.com:8443/user/repo/blob/main/m.gguf") == HubName(
        "user/repo", "main", "m.gguf"
    )


REFUSED = {
    "": "empty reference",
    "  ": "empty reference",
    "x" * 5000: "5,000 characters",
    "s3://bucket/m.gguf": "not read from s3: addresses; write a path",
    "https:///m.gguf": "names no host",
    "https://[::1/m.gguf": "is not a URL",
    "https://example.com:port/m.gguf": "is not a URL",
    "file://server/m.gguf": "name files of this machine",
    "hf://user": "names no repository",
    "hf://user/../repo/m.gguf": "names no repository|is not a .gguf file",
    "hf.co/user/repo/README.md": "'README.md' is not a .gguf file",
    "https://huggingface.co/user/repo/blob/main/README.md": "is not a .gguf file",
    "ollama://a/b/c/d": "is not the name of an Ollama model",
    "ollama://../m": "is not the name of an Ollama model",
    "ollama://.m": "is not the name of an Ollama model",
    "lmstudio://": "names no model",
    "lmstudio://a/../../etc": "names no model",
    "ms://user": "names no repository",
    "ms://user/repo/README.md": "is not a .gguf file",
    "https://modelscope.cn/models/user/repo/resolve/v1/README.md": "is not a .gguf file",
    "docker://": "is not the name of an image",
    "docker://AI/Model": "is not the name of an image",
    "oci://../m": "is not the name of an image",
    "oci://ghcr.io/a//b": "is not the name of an image",
    "what is this?": "no such file, and no model is named like that",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda t: t[:30])
def test_what_names_nothing(text: str, alone: Path) -> None:
    for read in (parse, source.read_header):
        with pytest.raises(SourceError, match=REFUSED[text]):
            read(text)


@given(st.text(alphabet=st.sampled_from("abQ8_.-:/@#%\\ \0~\nüf"), max_size=30) | st.text(max_size=60))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    """Whatever is written names something or is refused in our words; a name's parts never climb out of a folder."""
    try:
        found = parse(text)
    except SourceError:
        return
    if isinstance(found, ImageName):
        assert ".." not in found.repository.split("/")
        assert not found.host.startswith((".", "-"))
    ollama = found.ollama if isinstance(found, Anywhere) else found
    if isinstance(ollama, OllamaName):
        for part in (ollama.host, ollama.namespace, ollama.model, ollama.tag):
            assert not part.startswith(".")
            assert "/" not in part
            assert "\\" not in part


@given(
    st.from_regex(r"[a-z0-9_][a-z0-9_.-]{0,20}", fullmatch=True),
    st.from_regex(r"[a-z0-9_][a-z0-9_.-]{0,20}", fullmatch=True),
)
def test_ollama_names_read_back(model: str, tag: str) -> None:
    """An Ollama name, shown as Ollama shows it, means the same model."""
    name = OllamaName(model, tag)
    assert parse(f"ollama://{name}") == name
    assert parse(f"ollama://{OllamaName(model, tag, 'me', 'example.com')}") == OllamaName(
        model, tag, "me", "example.com"
    )


def test_digests_are_split_off() -> None:
    """Behind an image's name a digest is that of its manifest: it stays."""
    for image in ("docker://m@sha256:" + "ab" * 32, "docker.io/ai/m@sha256:" + "ab" * 32):
        assert split_digest(image) == (image, "")
    assert split_digest("m:7b@sha256:" + "AB" * 32) == ("m:7b", "ab" * 32)
    assert split_digest("m:7b@sha256:abc") == ("m:7b@sha256:abc", "")


def test_the_documentation_says_what_is_read() -> None:
    """Every prefix that is read stands in the table of what is understood, none among what is not read."""
    text = (Path(__file__).parents[1] / "docs" / "users" / "models.md").read_text(encoding="utf-8")
    understood, _, rest = text.partition("\nNot read: ")
    not_read = rest.partition("\n\n")[0]
    for scheme in grammar._SCHEMES:
        assert f"{scheme}://" not in not_read
    for scheme in set(grammar._SCHEMES) - {
        "http",
        "hf.co",
        "huggingface.co",
        "lm-studio",
    }:  # spellings of others
        assert f"`{scheme}:" in understood, scheme
    for scheme in re.findall(r"`(\w+)://", not_read):
        with pytest.raises(SourceError, match=f"models are not read from {scheme}: addresses"):
            parse(f"{scheme}://x/y")
