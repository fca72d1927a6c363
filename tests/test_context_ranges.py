"""Along a piece, buffers are what replaying each context gives."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import ROOT, examples
from hypothesis import given
from hypothesis import strategies as st
from small import gpu, shortened

from vramfit._estimate.compute import compute_bytes
from vramfit._estimate.context_ranges import NotStraight, Stretch
from vramfit._ggml.backends import backend
from vramfit._llama.cparams import resolve
from vramfit._llama.params import Settings
from vramfit._llama.placement import place
from vramfit._sources.load import read

EXAMPLES = ROOT / "examples"
PLAIN, WINDOWED = (
    shortened(read(EXAMPLES / name), 8)
    for name in ("qwen2.5-14b-instruct-1m-q8_0.gguf", "gemma-3-12b-q4_k_m.gguf")
)
SETTINGS = st.builds(
    Settings,
    flash_attn=st.sampled_from(["on", "off"]),
    n_ubatch=st.sampled_from([32, 512]),
    n_gpu_layers=st.sampled_from([-1, 5]),
    tensor_split=st.sampled_from([(3.0, 4.0), (1.0, 5.0)]),
)


@examples(6)
@given(st.booleans(), SETTINGS, st.integers(1, 60), st.integers(2, 40))
def test_pieces_are_what_each_context_gives(
    windowed: bool, settings: Settings, first: int, reach: int
) -> None:
    """Pieces cover all contexts, in order, each to the byte; or the stretch is refused as a whole."""
    model = WINDOWED if windowed else PLAIN
    gpus = [gpu()] * 2
    rules = [backend(g.backend) for g in gpus]

    def at(i: int) -> Settings:
        return replace(settings, n_ctx=256 * (first + i))

    placement = place(model, gpus, at(0))
    try:
        stretch = Stretch(model, placement, lambda i: resolve(model, at(i)), reach, rules)
        pieces = list(stretch.pieces())
    except NotStraight:
        assert windowed  # a window ends the growth of its cache
        return
    assert [p.first for p in pieces] == [0, *(p.last + 1 for p in pieces[:-1])]
    assert pieces[-1].last == reach
    for piece in pieces:
        for i in {piece.first, (piece.first + piece.last) // 2, piece.last}:
            found = compute_bytes(model, placement, resolve(model, at(i)), rules)
            there = tuple(a + b * i for a, b in zip(piece.sizes, piece.slopes, strict=True))
            assert there == (*found.gpus, found.host)


def test_caches_that_stop_growing_are_not_straight() -> None:
    """A stretch over the context at which a window's cache is full is refused."""
    settings = Settings(n_ctx=256, n_ubatch=32)
    placement = place(WINDOWED, [gpu()], settings)
    with pytest.raises(NotStraight):
        list(
            Stretch(
                WINDOWED, placement, lambda i: resolve(WINDOWED, replace(settings, n_ctx=256 * (i + 1))), 20,
                [backend("cuda")],
            ).pieces()
        )  # fmt: skip
