"""Secrets of addresses: neither names, errors, progress, logs nor files tell one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import gguf_bytes as raw
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from servers import Served, Server, running

from vramfit import _sources as source
from vramfit._base.errors import SourceError, VramfitError
from vramfit._cli import main
from vramfit._sources import client, grammar
from vramfit._sources.redact import NAME_SCHEMES, redacted, redacted_within

HEADER = raw.file([raw.key("general.name", "str", raw.string("m"))])
SHOWN = {
    "https://host/m.gguf": "https://host/m.gguf",
    "https://user:secret@host.example:8080/m.gguf?sig=secret#secret": "https://host.example:8080/m.gguf",
    "HTTPS://user:secret@host/m.gguf": "HTTPS://host/m.gguf",
    " http://user:secret@host/m.gguf": " http://host/m.gguf",
    "http:user:secret@host/m.gguf": "http://host/m.gguf",
    "ftp://secret@host/x": "ftp://host/x",
    "s3://key:secret@bucket/x?token=secret": "s3://bucket/x",
    # a password whose characters are not escaped
    "https://user:sec/ret@host/m.gguf": "https://***@host/m.gguf",
    "https://user:sec?ret@host/m.gguf?x": "https://***@host/m.gguf",
    "https://user:sec#ret@host/m.gguf": "https://***@host/m.gguf",
    "https://user:12/secret@host/m.gguf": "https://***@host/m.gguf",
    "https://user:sec@ret/secret@host/m.gguf": "https://***@host/m.gguf",
    "https://user:secret@[host/m.gguf": "https://[host/m.gguf",
    "https://[user:sec?ret@host/m.gguf": "https://***@host/m.gguf",
    # an @ that belongs to a path
    "https://host/m@1/m.gguf?x": "https://host/m@1/m.gguf",
    "https://host.example:80/m@1.gguf": "https://host.example:80/m@1.gguf",
    "http://localhost:80/m@1.gguf": "http://localhost:80/m@1.gguf",
    "http://[::1]:80/m@1.gguf": "http://[::1]:80/m@1.gguf",
    # names of models
    "hf://user/repo@v1/m.gguf#branch": "hf://user/repo@v1/m.gguf#branch",
    "lmstudio://repo@q8_0": "lmstudio://repo@q8_0",
    f"docker://m:7b@sha256:{'a' * 64}": f"docker://m:7b@sha256:{'a' * 64}",
    "oci://user:sec/ret@host/m:7b?x=secret": "oci://***@host/m:7b",
    "hf://user:secret@host/x": "hf://***@host/x",
    # no addresses
    "file:///models/a@b?c.gguf": "file:///models/a@b?c.gguf",
    "file://user:secret@host/m": "file://host/m",
    "user:a@b?c": "user:a@b?c",
    "C:\\models\\a@b.gguf": "C:\\models\\a@b.gguf",
    "": "",
}


@pytest.mark.parametrize("text", SHOWN)
def test_what_is_shown(text: str) -> None:
    assert redacted(text) == SHOWN[text]


def test_long_addresses_are_cut() -> None:
    assert len(redacted("http://host/" + "x" * 1000)) == 200
    assert len(redacted("hf://user/" + "x" * 1000)) == 1010


SECRETS = st.text(st.characters(codec="ascii", exclude_categories=["Cc"], exclude_characters=" "), min_size=3)


@given(secret=SECRETS.map("qz".__add__), scheme=st.sampled_from(["http", "https", "s3", "oci", "hf"]))
def test_no_password_is_shown(secret: str, scheme: str) -> None:
    """Whatever a password holds, escaped or not, nothing of it is shown; no more of a signed query."""
    for written in (secret, quote(secret, safe="")):
        assert redacted(f"{scheme}://user:{written}@host.example/m.gguf").endswith("host.example/m.gguf")
        assert "qz" not in redacted(f"{scheme}://user:{written}@host.example/m.gguf")
    assert "qz" not in redacted(f"{scheme}://host.example/m.gguf?sig={quote(secret)}")


def test_schemes_of_names_are_those_of_the_grammar() -> None:
    assert set(grammar._SCHEMES) - {"http", "https", "file"} == NAME_SCHEMES


def test_addresses_in_sentences() -> None:
    told = redacted_within(
        "500 for 'http://user:secret@host/x?sig=secret' via http://a:secret@proxy: too bad"
    )
    assert told == "500 for 'http://host/x' via http://proxy: too bad"


@pytest.fixture
def server(alone: Path) -> Iterator[Server]:
    with running() as server:
        server.files["/m.gguf"] = Served(HEADER, etag='"1"')
        yield server


REFUSED = [
    "https://user:s3cr/et@host.example/m.gguf",
    "https://user:s3cret@[host/m.gguf",
    "HTTP://user:s3cret@127.0.0.1:9x/m.gguf",
    "http://user:s3cret@h\uff0fost/m.gguf",
    "https://user:s3cret@huggingface.co/x?token=s3cret",
    "https://user:s3cret@ollama.com/..",
    "https://user:s3cret@hub.docker.com/r/..",
    "https://user:s3cret@",
    "https://user:s3cret@host/a%0d%0ab.gguf",
    "https://user:s3cret@host/a\r\nb.gguf",
    "https://user:s3cret@host/" + "x" * 5000,
    "ftp://user:s3cret@host/m.gguf",
    "s3://key:s3cret@bucket/x?sig=s3cret",
    "oci://user:s3cret@host.io/a/b",
    "docker://user:s3/cret@host.io/a/b",
    "hf://user:s3cret@x",
    "ollama://user:s3cret@host.io/a/b",
    "ms://user:s3cret@x",
]


@pytest.mark.parametrize("reference", REFUSED)
def test_errors_tell_no_secret(alone: Path, reference: str) -> None:
    """However a reference is wrong, the answer is ours, and shows no part of a password."""
    with pytest.raises(SourceError) as caught:
        source.open_headers(reference)
    printed = CliRunner().invoke(main, ["inspect", reference]).output
    twice = CliRunner().invoke(main, ["inspect", reference, "-m", reference]).output
    for told in (str(caught.value), printed, twice):
        assert "s3c" not in told
        assert "cret" not in told
        assert "\r" not in told
    assert "two models given" in twice


PROXIES = [
    "http://user:s3cr/et@host:3128", "http://user:s3cret@host:port", "http://user:s3cr et@ho st:3128",
    "socks5://user:s3cr/et@host:99", "http://user:s3cr#et@[host:99", "user:s3cr?et@host:1", "http://user:s3cr\net@host",
    "http://user:9/s3cret@host:1", "http://user:s3cret@", "http://user:s3cret@h\uff0fost",
]  # fmt: skip


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
def test_a_malformed_proxy_is_not_printed(
    server: Server, monkeypatch: pytest.MonkeyPatch, variable: str, proxy: str
) -> None:
    """It is named by its variable; what to write is said. Libraries below the Hub never see it."""
    monkeypatch.setenv(variable, proxy)
    for reference in (f"{server.url}/m.gguf", "hf.co/user/repo:Q8_0"):
        with pytest.raises(
            SourceError, match=f"^{variable.upper()}: is not an address; write http://user:"
        ) as caught:
            source.open_headers(reference)
        assert "s3c" not in str(caught.value)
        assert "user:" not in str(caught.value).partition("write http://user:")[2]
    assert not server.log


@pytest.mark.parametrize(
    "proxy", ["http://[::1]:3128/", "127.0.0.1:3128", "HTTP://a_b.c-d:3128", "http://user:%2F@h"]
)
def test_sound_proxies(alone: Path, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    assert client.sound_proxies()["http"].endswith(proxy)


def test_errors_of_the_hub_tell_no_secret(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its address may hold a password, and libraries say addresses in their errors."""
    patience = client.Patience(idle=0.3, total=5.0, back_off=0.001)
    monkeypatch.setattr(client.Patience, "from_environment", lambda: patience)
    monkeypatch.setenv("HF_ENDPOINT", "http://user:s3cret@127.0.0.1:9")
    with pytest.raises(SourceError, match=r"http://127\.0\.0\.1:9 cannot be reached") as caught:
        source.open_headers("hf.co/user/repo:Q8_0")
    assert "s3cret" not in str(caught.value)


def test_names_progress_logs_and_files_tell_no_secret(
    server: Server, alone: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A look-up that works tells no more than one that fails; another's log is left as it is."""
    caplog.set_level(logging.DEBUG)
    url = f"{server.url}/m.gguf?sig=s3cret".replace("//", "//user:s3cret@")
    told: list[str] = []

    def tell(name: str, _: int) -> None:
        told.append(name)

    for _ in range(2):
        resolved = source.resolve(url, progress=tell)
        told += [resolved.name, str(resolved.headers[0].name)]
    assert len(server.log) == 1
    assert server.log[0].path == "/m.gguf?sig=s3cret"
    logging.getLogger("urllib3.connectionpool").debug("%s", "GET /theirs?a=b")
    assert "/m.gguf" in caplog.text
    assert "GET /theirs?a=b" in caplog.text
    kept = [p.read_bytes() for p in alone.rglob("*") if p.is_file()]
    assert len(kept) > 1
    for text in (*told, caplog.text, *map(str, kept)):
        assert "s3cret" not in text


@pytest.mark.parametrize(
    "reference",
    [
        "a\nb",
        "hf.co/user/repo\r\nX: y",
        "http://127.0.0.1:9/a\r\nX: y.gguf",
        "ollama://m\x1b[2J",
        "m:7b\u2028",
    ],
)
def test_names_hold_no_line_breaks(alone: Path, reference: str) -> None:
    """What is not a file of that name is refused before a server could be told, and printed on one line."""
    with pytest.raises(
        VramfitError, match="a name holds no line breaks or other control characters"
    ) as caught:
        source.open_headers(reference)
    assert str(caught.value).isprintable()
    Path(reference.rpartition("/")[2]).write_bytes(HEADER)
    assert source.open_headers(Path(reference.rpartition("/")[2]))
