"""Models of Ollama: a store laid out on disk, and a stand-in registry."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf_bytes as raw
import pytest
from servers import Registry, Served, Server, running

from vramfit import _sources as source
from vramfit._base.errors import SourceError
from vramfit._sources import ollama

FAR = 1 << 40
LAYER = "application/vnd.ollama.image."
PARAMETERS = {"num_ctx": 43008, "stop": ["<|im_end|>"]}


def body(name: str = "m", n_strings: int = 1) -> bytes:
    strings = raw.array("str", n_strings, raw.string("wordword") * n_strings)
    return raw.file([raw.key("general.name", "str", raw.string(name)), raw.key("a", "arr", strings)])


def put(store: Path, name: str, manifest: dict[str, Any] | None = None, **layers: bytes) -> Path:
    """A model in a store, under "host/namespace/model/tag"; its manifest's path."""
    rows = []
    (store / "blobs").mkdir(parents=True, exist_ok=True)
    for kind, content in layers.items():
        digest = hashlib.sha256(content).hexdigest()
        (store / "blobs" / f"sha256-{digest}").write_bytes(content)
        rows.append({"mediaType": LAYER + kind, "digest": f"sha256:{digest}", "size": len(content)})
    path = store / "manifests" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest if manifest is not None else {"schemaVersion": 2, "layers": rows}))
    return path


@pytest.fixture
def store(alone: Path) -> Path:
    return alone / ".ollama" / "models"


def name_of(reference: str, **options: Any) -> object:
    return source.open_headers(reference, **options)[0].metadata["general.name"]


# The store.


@pytest.mark.parametrize(
    ("reference", "place"),
    [
        ("m", "registry.ollama.ai/library/m/latest"),
        ("m:7b", "registry.ollama.ai/library/m/7b"),
        ("M:7B", "registry.ollama.ai/library/m/7b"),
        ("ollama://m:7b", "registry.ollama.ai/library/m/7b"),
        ("me/m:7b", "registry.ollama.ai/me/m/7b"),
        ("registry.example.com/me/m:7b", "registry.example.com/me/m/7b"),
        ("localhost:5000/me/m", "localhost:5000/me/m/latest"),
        ("https://ollama.com/library/m:7b", "registry.ollama.ai/library/m/7b"),
    ],
)
def test_names_in_the_store(store: Path, reference: str, place: str) -> None:
    put(store, place, model=body("stored"))
    assert name_of(reference) == "stored"


def test_what_goes_with_a_model(store: Path) -> None:
    """Projector, adapter, draft, parameters and template of a stored model are seen."""
    put(
        store, "registry.ollama.ai/library/m/latest", model=body(), projector=b"GGUF..", adapter=b"GGUF", draft=b"GGUF.",
        params=json.dumps(PARAMETERS).encode(), template=b"{{ .Prompt }}", license=b"MIT",
    )  # fmt: skip
    found = source.resolve("m")
    assert dict(found.parameters) == PARAMETERS
    assert found.template == "{{ .Prompt }}"
    sizes = {kind: found.companion(kind).n_bytes for kind in ("projector", "adapter", "draft")}  # type: ignore[union-attr]
    assert sizes == {"projector": 6, "adapter": 4, "draft": 5}
    projector = found.companion("projector")
    assert projector is not None
    assert projector.path is not None
    assert projector.path.read_bytes() == b"GGUF.."
    assert found.path is not None
    assert found.path.parent == store / "blobs"
    with pytest.raises(TypeError):
        found.parameters["num_ctx"] = 1  # type: ignore[index]


def test_a_model_alone(store: Path) -> None:
    put(store, "registry.ollama.ai/library/m/latest", model=body())
    found = source.resolve("m")
    assert not found.parameters
    assert not found.companions
    assert not found.template


def test_stores(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`OLLAMA_MODELS` is the store; without it, the person's and then the service's."""
    found = list(ollama.stores())
    assert found[0] == alone / ".ollama" / "models"
    assert len(found) == (2 if sys.platform.startswith("linux") else 1)
    monkeypatch.setenv("OLLAMA_MODELS", "~/elsewhere")
    assert list(ollama.stores()) == [alone / "elsewhere"]


def test_the_second_store_is_asked_too(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama, "stores", lambda: iter((alone / "a", alone / "b")))
    put(alone / "b", "registry.ollama.ai/library/m/latest", model=body("b"))
    assert name_of("m") == "b"


GOOD: dict[str, Any] = {"mediaType": LAYER + "model", "digest": "sha256:" + "a" * 64, "size": 1}
MANIFESTS: dict[str, tuple[Any, str]] = {
    "a path in a digest": ({"layers": [{**GOOD, "digest": "sha256:../../../../etc/passwd"}]}, "not a sha256 digest; not followed"),
    "a path behind a digest": ({"layers": [{**GOOD, "digest": GOOD["digest"] + "/../x"}]}, "not a sha256 digest"),
    "a line behind a digest": ({"layers": [{**GOOD, "digest": GOOD["digest"] + "\n"}]}, "not a sha256 digest"),
    "a short digest": ({"layers": [{**GOOD, "digest": "sha256:abc"}]}, "not a sha256 digest"),
    "another digest": ({"layers": [{**GOOD, "digest": "md5:" + "a" * 64}]}, "not a sha256 digest"),
    "a number for a digest": ({"layers": [{**GOOD, "digest": 7}]}, "not a sha256 digest"),
    "a layer that is a list": ({"layers": [[]]}, "not a sha256 digest"),
    "a negative size": ({"layers": [{**GOOD, "size": -1}]}, "not a sha256 digest"),
    "no layers": ({}, "no sound list of layers"),
    "layers without end": ({"layers": [GOOD] * 2000}, "no sound list of layers"),
    "a list": ([], "is not a JSON object"),
    "a cloud model": ({"layers": []}, "has no weights: it runs in the cloud"),
    "safetensors": ({"layers": [{**GOOD, "mediaType": LAYER + "tensor"}]}, "is made of safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("fault", MANIFESTS)
def test_manifests_that_lie(store: Path, fault: str) -> None:
    manifest, message = MANIFESTS[fault]
    put(store, "registry.ollama.ai/library/m/latest", manifest)
    with pytest.raises(SourceError, match=rf"^m: .*{message}"):
        source.read_header("m")


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, "\x00", "x" * (5 << 20)], ids=lambda t: f"{t[:3]!r}*{len(t)}"
)
def test_manifests_that_are_none(store: Path, text: str) -> None:
    path = put(store, "registry.ollama.ai/library/m/latest", model=body())
    path.write_text(text)
    with pytest.raises(SourceError, match=r"^m: .*(is not JSON|it is damaged)"):
        source.read_header("m")


def test_parameters_that_are_none(store: Path) -> None:
    put(store, "registry.ollama.ai/library/m/latest", model=body(), params=b"num_ctx=1")
    assert name_of("m") == "m"
    with pytest.raises(SourceError, match="m: its list of parameters is not JSON"):
        source.resolve("m")


def test_a_blob_that_is_missing(store: Path) -> None:
    put(store, "registry.ollama.ai/library/m/latest", {"layers": [GOOD]})
    with pytest.raises(
        SourceError, match=r"m: is in Ollama's store, but its file .*sha256-a+ is not; run `ollama pull m`"
    ):
        source.read_header("m")


@pytest.mark.parametrize("what", ["blob", "manifest", "params", "loop"])
def test_links_out_of_the_store_are_not_followed(store: Path, alone: Path, what: str) -> None:
    manifest = put(store, "registry.ollama.ai/library/m/latest", model=body(), params=b'{"num_ctx": 1}')
    digest = hashlib.sha256(body() if what in ("blob", "loop") else b'{"num_ctx": 1}').hexdigest()
    inside = manifest if what == "manifest" else store / "blobs" / f"sha256-{digest}"
    outside = alone / "outside"
    inside.rename(outside)
    inside.symlink_to(inside if what == "loop" else outside)
    with pytest.raises(SourceError, match=r"^m: "):
        source.resolve("m")


def test_a_store_that_is_a_link_itself(store: Path, alone: Path) -> None:
    """Where the store is, the person decides; links inside it are followed."""
    put(alone / "disk", "registry.ollama.ai/library/m/latest", model=body("linked"))
    store.parent.mkdir()
    store.symlink_to(alone / "disk")
    blob = next((store / "blobs").iterdir())
    blob.rename(blob.with_name("moved"))
    blob.symlink_to("moved")
    assert name_of("m") == "linked"


def test_digests_are_compared(store: Path) -> None:
    """The digest of a reference is that of the bytes that lie there, not of what the blob is called."""
    content = body("real")
    put(store, "registry.ollama.ai/library/m/latest", model=content)
    digest = hashlib.sha256(content).hexdigest()
    assert name_of(f"m@sha256:{digest}") == "real"
    with pytest.raises(SourceError, match=f"is another file: its sha256 is {digest}, not {'0' * 64}"):
        source.read_header(f"m@sha256:{'0' * 64}")
    (store / "blobs" / f"sha256-{digest}").write_bytes(body("swapped"))
    with pytest.raises(SourceError, match="is another file"):
        source.read_header(f"m@sha256:{digest}")


def test_digests_of_paths(alone: Path) -> None:
    path = alone / "m.gguf"
    path.write_bytes(body("path"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert name_of(f"{path}@sha256:{digest}") == "path"
    with pytest.raises(SourceError, match="is another file"):
        source.read_header(f"{path}@sha256:{'0' * 64}")


# The registry.


@pytest.fixture
def blobs(alone: Path) -> Iterator[Server]:
    """Where the registry's blobs lie."""
    with running() as blobs:
        yield blobs


@pytest.fixture
def registry(blobs: Server) -> Iterator[Registry]:
    with running(Registry(blobs)) as registry:
        assert isinstance(registry, Registry)
        yield registry


@pytest.mark.parametrize("n_strings", [1, 5_000, 30_000])
def test_costs(registry: Registry, blobs: Server, n_strings: int) -> None:
    """Three requests: the manifest, the redirect to the blob, and the blob, of which the header is read."""
    registry.put("library/m/7b", model=Served(body("far", n_strings), size=FAR), params=b"{}")
    assert name_of(f"{registry.host}/library/m:7b") == "far"
    assert len(registry.log) + len(blobs.log) == 3
    assert "manifest.v2+json" in registry.log[0].headers["accept"]


def test_what_goes_with_a_remote_model(registry: Registry) -> None:
    params = json.dumps(PARAMETERS).encode()
    registry.put(
        "me/m/7b", model=Served(body(), size=FAR), params=params, projector=b"GGUF..", template=b"{{ }}"
    )
    found = source.resolve(f"ollama://{registry.host}/me/m:7b")
    assert dict(found.parameters) == PARAMETERS
    assert found.companion("projector").n_bytes == 6  # type: ignore[union-attr]
    assert found.companion("template") is not None
    assert found.path is None


def test_the_second_look_asks_nobody(registry: Registry, blobs: Server) -> None:
    registry.put("library/m/7b", model=Served(body(), size=FAR), params=b"{}")
    for _ in range(2):
        source.resolve(f"{registry.host}/library/m:7b")
        asked = len(registry.log), len(blobs.log)
    assert asked == (3, 2)


def test_a_tag_that_moves(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest is asked for again after a while; a blob by its digest is not, however old."""
    monkeypatch.setattr("vramfit._sources.cache.FRESH_SECONDS", 0)
    registry.put("library/m/7b", model=Served(body("old"), size=FAR))
    reference = f"{registry.host}/library/m:7b"
    assert [name_of(reference) for _ in range(2)] == ["old", "old"]
    assert [r.path.split("/")[4] for r in registry.log] == ["manifests", "blobs", "manifests"]
    registry.put("library/m/7b", model=Served(body("new"), size=FAR))
    assert name_of(reference) == "new"


def test_the_same_blob_under_another_name(registry: Registry, blobs: Server) -> None:
    """Tags of one repository share a header; another repository's claim of the same digest is read anew."""
    for name in ("library/m/7b", "library/m/latest", "me/copy/latest"):
        registry.put(name, model=Served(body(), size=FAR))
    source.read_header(f"{registry.host}/library/m:7b")
    source.read_header(f"{registry.host}/library/m")
    assert len(blobs.log) == 1
    source.read_header(f"{registry.host}/me/copy")
    assert len(blobs.log) == 2


def test_a_registry_answers_for_itself_alone(registry: Registry) -> None:
    """What one registry gives for a digest, true or not, no model of another is read from."""
    registry.put("library/m/7b", model=Served(body("sound"), size=FAR))
    with running(Registry()) as hostile:
        assert isinstance(hostile, Registry)
        hostile.manifests["library/m/7b"] = registry.manifests["library/m/7b"]  # the same digest and size
        digest = hashlib.sha256(body("sound")).hexdigest()
        hostile.files[f"/blobs/sha256:{digest}"] = Served(body("planted"), size=FAR)
        assert name_of(f"{hostile.host}/library/m:7b") == "planted"
        assert name_of(f"{registry.host}/library/m:7b") == "sound"


def test_what_a_manifest_announces_is_compared(registry: Registry, blobs: Server) -> None:
    """The size of a file, and its digest where all of it was read, are those of the manifest."""
    reference = f"{registry.host}/library/m:7b"
    registry.put("library/m/7b", model=Served(body("sound"), size=FAR))
    path = f"/blobs/sha256:{hashlib.sha256(body('sound')).hexdigest()}"
    blobs.files[path] = Served(body("sound"), size=FAR - 1)
    with pytest.raises(
        SourceError, match=r"has 1,099,511,627,775 bytes, but 1,099,511,627,776 in its manifest"
    ):
        source.read_header(reference)
    reference = f"{registry.host}/library/m:8b"
    registry.put("library/m/8b", model=Served(body("sound")))
    blobs.files[path] = Served(body("other"))
    with pytest.raises(SourceError, match="8b: the file is another than was announced: its sha256 is"):
        source.read_header(reference)
    blobs.files[path] = Served(body("sound"))
    assert name_of(reference) == "sound"


def test_parameters_that_are_not_those_announced(registry: Registry, blobs: Server) -> None:
    """They are refused, and not kept: the next look asks again."""
    sound = b'{"num_ctx": 1}'
    registry.put("library/m/7b", model=Served(body(), size=FAR), params=sound)
    path = f"/blobs/sha256:{hashlib.sha256(sound).hexdigest()}"
    blobs.files[path] = Served(b'{"num_ctx": 2}')
    with pytest.raises(SourceError, match="its list of parameters is another than was announced"):
        source.resolve(f"{registry.host}/library/m:7b")
    blobs.files[path] = Served(sound)
    assert dict(source.resolve(f"{registry.host}/library/m:7b").parameters) == {"num_ctx": 1}


def test_digests_of_remote_models(registry: Registry) -> None:
    """The digest of a reference is compared with that of the manifest."""
    registry.put("library/m/7b", model=Served(body(), size=FAR))
    digest = hashlib.sha256(body()).hexdigest()
    assert name_of(f"{registry.host}/library/m:7b@sha256:{digest}") == "m"
    with pytest.raises(SourceError, match="is another file"):
        source.read_header(f"{registry.host}/library/m:7b@sha256:{'0' * 64}")


def test_a_digest_that_cannot_be_compared(blobs: Server) -> None:
    blobs.files["/m.gguf"] = Served(body())
    with pytest.raises(SourceError, match="announces no sha256, so that its digest cannot be compared"):
        source.read_header(f"{blobs.url}/m.gguf@sha256:{'0' * 64}")


def test_a_model_that_is_nowhere(registry: Registry) -> None:
    with pytest.raises(
        SourceError,
        match=r"no such file here, and 127\.0\.0\.1:\d+ has no model .*library/m:7b; see `ollama list`",
    ):
        source.read_header(f"{registry.host}/library/m:7b")


@pytest.mark.parametrize("fault", [f for f in MANIFESTS if "without end" not in f])
def test_remote_manifests_that_lie(registry: Registry, blobs: Server, alone: Path, fault: str) -> None:
    """Nothing is fetched by what is no digest, and nothing is written but into the cache."""
    manifest, message = MANIFESTS[fault]
    registry.manifests["library/m/7b"] = json.dumps(manifest).encode()
    before = {p for p in alone.rglob("*") if "vramfit" not in p.parts}
    with pytest.raises(SourceError, match=message):
        source.read_header(f"{registry.host}/library/m:7b")
    assert len(registry.log) == 1
    assert not blobs.log
    assert {p for p in alone.rglob("*") if "vramfit" not in p.parts} == before


def test_a_manifest_without_end(registry: Registry) -> None:
    registry.manifests["library/m/7b"] = b" " * (5 << 20)
    with pytest.raises(SourceError, match="more than 4,194,304 bytes where a few are due"):
        source.read_header(f"{registry.host}/library/m:7b")


def test_a_bare_name_goes_to_the_public_registry(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no store has is asked of Ollama's own registry, over https."""
    from vramfit._sources import client, web

    asked: list[str] = []

    def fetch(_: client.Client, url: str, *__: object, **___: object) -> bytes:
        asked.append(url)
        raise SourceError("stop")

    monkeypatch.setattr(web, "fetch", fetch)
    with pytest.raises(SourceError, match="stop"):
        source.read_header("qwen2.5-coder:32b")
    assert asked == ["https://registry.ollama.ai/v2/library/qwen2.5-coder/manifests/32b"]


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may read everything")
def test_a_store_without_permission(store: Path) -> None:
    path = put(store, "registry.ollama.ai/library/m/latest", model=body())
    path.chmod(0)
    with pytest.raises(SourceError, match=r"m: Ollama's .* cannot be read: Permission denied"):
        source.read_header("m")
