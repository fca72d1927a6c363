"""Models in container registries: a stand-in registry that wants a token, and blobs on another host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import gguf_bytes as raw
import pytest
from servers import Images, Served, Server, running
from test_source import shard

from vramfit import _sources as source
from vramfit._base.errors import SourceError

FAR = 1 << 40
GGUF = "application/vnd.docker.ai.gguf.v3"
DOCKER = "application/vnd.docker.ai."


def far(name: str = "m", n_strings: int = 1) -> Served:
    strings = raw.array("str", n_strings, raw.string("wordword") * n_strings)
    return Served(
        raw.file([raw.key("general.name", "str", raw.string(name)), raw.key("a", "arr", strings)]), FAR
    )


def part(no: int) -> Served:
    """One of three shards."""
    return Served(shard(no, 3, [raw.tensor(f"t{no}", (8,))], 3), FAR)


def name_of(reference: str) -> object:
    return source.open_headers(reference)[0].metadata["general.name"]


@pytest.fixture
def blobs(alone: Path) -> Iterator[Server]:
    with running() as blobs:
        yield blobs


@pytest.fixture
def images(blobs: Server) -> Iterator[Images]:
    with running(Images(blobs)) as images:
        assert isinstance(images, Images)
        yield images


@pytest.mark.parametrize("n_strings", [1, 5_000, 30_000])
@pytest.mark.parametrize("token", ["", "t0ken"])
def test_costs(images: Images, blobs: Server, token: str, n_strings: int) -> None:
    """Manifest, redirect and blob; a token that is wanted takes the refusal and its own request more."""
    images.token = token
    images.put("ai/m/7b", (GGUF, far("far", n_strings), ""))
    assert name_of(f"docker://{images.host}/ai/m:7b") == "far"
    assert len(images.log) + len(blobs.log) == (5 if token else 3)


def test_tokens(images: Images, blobs: Server, alone: Path) -> None:
    """A token is asked for without any secret, for this repository alone; only its registry sees it, no disk."""
    images.put("ai/m/7b", (GGUF, far(), ""))
    source.read_header(f"oci://{images.host}/ai/m:7b")
    asked = next(r for r in images.log if r.path.startswith("/token"))
    assert asked.path == "/token?scope=repository%3Aai%2Fm%3Apull&service=images"
    assert "authorization" not in asked.headers
    assert [r.headers.get("authorization") for r in blobs.log] == [None]
    kept = [p for p in alone.rglob("*") if p.is_file()]
    assert kept
    assert not any(b"t0ken" in p.read_bytes() for p in kept)


def test_a_token_that_expired_is_not_asked_for_again(images: Images) -> None:
    """Who refuses the token it gave is not asked without end."""
    images.gives = b'{"access_token": "another"}'
    images.put("ai/m/7b", (GGUF, far(), ""))
    with pytest.raises(SourceError, match="refuses access"):
        source.read_header(f"oci://{images.host}/ai/m:7b")
    assert len(images.log) == 3


CHALLENGES = {
    "": "wants a login",
    "Basic realm=x": "wants a login",
    "Bearer": "wants a login",
    'Bearer service="x"': "wants a login",
    'Bearer realm="file:///etc/passwd"': "which is not a web address",
    'Bearer realm="gopher://x"': "which is not a web address",
    'Bearer realm="http://127.0.0.1:9/"': "cannot be reached",
    "Bearer " + 'a="' * 30_000: "wants a login|cannot be reached|refuses",
}


@pytest.mark.parametrize("challenge", CHALLENGES, ids=lambda c: repr(c[:24]))
def test_challenges_that_lead_nowhere(
    images: Images, challenge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vramfit._sources.client.ATTEMPTS", 1)
    images.challenge = challenge
    images.put("ai/m/7b", (GGUF, far(), ""))
    with pytest.raises(SourceError, match=CHALLENGES[challenge]):
        source.read_header(f"oci://{images.host}/ai/m:7b")


@pytest.mark.parametrize(
    ("gives", "message"),
    [
        (b"", "the token of .* is not JSON"),
        (b"[]", "is not a JSON object"),
        (b"{}", "gives no token"),
        (b'{"token": 7}', "gives no token"),
        (b'{"token": "a\\r\\nX: y"}', "gives no token"),
        (b" " * 100_000, "more than 65,536 bytes"),
    ],
)
def test_tokens_that_are_none(images: Images, gives: bytes, message: str) -> None:
    images.gives = gives
    images.put("ai/m/7b", (GGUF, far(), ""))
    with pytest.raises(SourceError, match=message):
        source.read_header(f"oci://{images.host}/ai/m:7b")


def test_the_second_look_asks_nobody(images: Images, blobs: Server) -> None:
    images.put("ai/m/7b", (GGUF, far(), ""))
    for _ in range(2):
        source.resolve(f"oci://{images.host}/ai/m:7b")
        asked = len(images.log), len(blobs.log)
    assert asked == (4, 1)


def test_shards_are_layers(images: Images, blobs: Server) -> None:
    """Each shard of a split model is a layer; their order is theirs where they have no names. One token serves all."""
    images.put("ai/m/7b", *((GGUF, part(i), "") for i in range(3)))
    assert [h.split_no for h in source.open_headers(f"oci://{images.host}/ai/m:7b")] == [0, 1, 2]
    assert sum(r.path.startswith("/token") for r in images.log) == 1
    titles = [f"s-{i + 1:05d}-of-00003.gguf" for i in range(3)]
    layers = [("application/octet-stream", part(i), titles[i]) for i in (2, 0, 1)]
    images.put("ai/m/oras", *layers)
    assert [h.split_no for h in source.open_headers(f"oras://{images.host}/ai/m:oras")] == [0, 1, 2]
    images.put("ai/m/short", *layers[:2])
    with pytest.raises(SourceError, match=r"missing beside it: s-00002-of-00003\.gguf"):
        source.open_headers(f"oras://{images.host}/ai/m:short")


def test_what_goes_with_a_model(images: Images) -> None:
    images.put(
        "ai/m/7b", (DOCKER + "license", Served(b"MIT"), ""), (GGUF, far(), ""), (DOCKER + "mmproj", Served(b"GGUF.."), ""),
        (DOCKER + "chat.template.jinja", Served(b"{{ }}"), ""),
    )  # fmt: skip
    found = source.resolve(f"oci://{images.host}/ai/m:7b")
    assert {c.kind: c.n_bytes for c in found.companions} == {"license": 3, "projector": 6, "template": 5}
    images.put("ai/m/oras", ("x", far(), "m-Q8_0.gguf"), ("x", Served(b"GGUF.."), "mmproj-F16.gguf"))
    oras = source.resolve(f"oci://{images.host}/ai/m:oras")
    assert [c.kind for c in oras.companions] == ["projector"]


def test_digests_name_manifests(images: Images) -> None:
    """An image named by its digest is that image, and another answer is refused."""
    digest = images.put("ai/m/7b", (GGUF, far("first"), ""))
    images.put("ai/m/7b", (GGUF, far("second"), ""))
    assert name_of(f"oci://{images.host}/ai/m:7b") == "second"
    assert name_of(f"oci://{images.host}/ai/m@{digest}") == "first"
    images.manifests[f"ai/m/{digest}"] = images.manifests["ai/m/7b"]
    with pytest.raises(SourceError, match=r"the manifest of .* is another than was announced: its sha256 is"):
        source.open_headers(f"docker://{images.host}/ai/m:7b@{digest}", cache=False)


TAR = "application/vnd.oci.image.layer.v1.tar+gzip"
REFUSED = {
    "a list of images": ({"manifests": []}, "is a list of images; name one of them by its digest"),
    "no model": ({"layers": []}, "holds no GGUF file but nothing"),
    "an archive": ({"layers": [{"mediaType": TAR, "digest": "sha256:" + "a" * 64, "size": 1}]}, "made of archives"),
    "a path": ({"layers": [{"mediaType": GGUF, "digest": "sha256:../../m", "size": 1}]}, "not a sha256 digest; not followed"),
    "a list": ([], "is not a JSON object"),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_manifests_that_are_refused(images: Images, blobs: Server, fault: str) -> None:
    manifest, message = REFUSED[fault]
    images.manifests["ai/m/7b"] = json.dumps(manifest).encode()
    with pytest.raises(SourceError, match=message):
        source.read_header(f"oci://{images.host}/ai/m:7b")
    assert not blobs.log


def test_which_model_is_not_guessed(images: Images) -> None:
    images.put("ai/m/7b", ("x", far("a"), "a.gguf"), ("x", far("b"), "b.gguf"))
    with pytest.raises(SourceError, match=r"holds several models: a\.gguf, b\.gguf"):
        source.read_header(f"oci://{images.host}/ai/m:7b")
    images.put("ai/m/8b", ("x", far("a"), "q8/a.gguf"), ("x", far("b"), "q4/a.gguf"))
    with pytest.raises(SourceError, match="two files of its manifest have one name"):
        source.read_header(f"oci://{images.host}/ai/m:8b")


def test_an_image_that_is_nowhere(images: Images) -> None:
    with pytest.raises(SourceError, match=r"127\.0\.0\.1:\d+ has no ai/m with 7b; see the tags"):
        source.read_header(f"oci://{images.host}/ai/m:7b")


def test_what_llama_cpp_pulled(alone: Path) -> None:
    """llama.cpp keeps models of Docker Hub in its own folder; nobody is asked for them."""
    folder = alone / ".cache" / "llama.cpp"
    folder.mkdir(parents=True)
    (folder / "ai_smollm2_135M.gguf").write_bytes(far("pulled").body)
    for reference in ("docker://smollm2:135M", "ai/smollm2:135M", "docker.io/ai/smollm2:135M"):
        assert name_of(reference) == "pulled"


def test_docker_hub(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not name a registry is asked of Docker Hub, over https."""
    from vramfit._sources import web

    asked: list[str] = []

    def fetch(_: object, url: str, *__: object, **___: object) -> bytes:
        asked.append(url)
        raise SourceError("stop")

    monkeypatch.setattr(web, "fetch", fetch)
    for reference in ("docker://smollm2", "ai/smollm2:7b"):
        with pytest.raises(SourceError, match="stop"):
            source.read_header(reference)
    hub = "https://registry-1.docker.io/v2/ai/smollm2/manifests"
    assert asked == [f"{hub}/latest", f"{hub}/7b"]
