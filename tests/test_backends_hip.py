"""The rules of HIP where they are not CUDA's: attention on matrix cores of AMD, and sorts."""

from __future__ import annotations

import pathlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nodes import attention, leaf, node, runs

from vramfit._ggml.backends import BACKENDS, backend
from vramfit._ggml.backends.cuda.fattn import AMD, Kernel, kernel
from vramfit._ggml.types import BY_NAME, TensorType

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # the tools are no part of the distribution

from tools.engine.prove import ARCHITECTURES

HIP, CUDA = BACKENDS["hip"], BACKENDS["cuda"]
F16, Q8 = BY_NAME["f16"], BY_NAME["q8_0"]
MMA, TILE, VECTOR = Kernel.TENSOR_CORES, Kernel.TILE, Kernel.VECTOR


@pytest.mark.parametrize(
    ("cc", "width", "n_tokens", "gqa", "n_kv", "chosen"),
    [
        # CDNA: columns of a tile, by the width of a head
        (0x908, 64, 8, 1, 256, TILE),
        (0x908, 64, 9, 1, 256, MMA),
        (0x908, 128, 16, 1, 256, TILE),
        (0x908, 128, 17, 1, 256, MMA),
        (0x908, 128, 9, 2, 256, MMA),
        (0x942, 256, 64, 1, 256, TILE),
        (0x942, 256, 65, 1, 256, MMA),
        (0x90A, 512, 64, 2, 256, TILE),
        (0x90A, 512, 65, 2, 256, MMA),
        (0x90A, 72, 512, 1, 256, TILE),
        # graphics of processors among CDNA's numbers, and cards without matrix cores
        (0x909, 128, 512, 4, 256, TILE),
        (0x90C, 128, 512, 4, 256, TILE),
        (0x803, 128, 512, 4, 256, TILE),
        (0x1030, 128, 512, 4, 256, TILE),
        (0x1010, 128, 512, 4, 256, TILE),
        # RDNA3 and newer: grouped heads alone
        (0x1100, 128, 512, 1, 256, TILE),
        (0x1100, 128, 4, 2, 256, TILE),
        (0x1100, 128, 5, 2, 256, MMA),
        (0x1151, 256, 8, 2, 256, TILE),
        (0x1201, 256, 9, 2, 256, MMA),
        (0x1100, 512, 512, 2, 256, TILE),
        (0x1100, 128, 512, 4, 200, TILE),
        (0x1100, 40, 512, 4, 256, TILE),
        # one token, heads alone
        (0x1100, 128, 1, 1, 256, VECTOR),
        (0x908, 128, 1, 1, 256, VECTOR),
    ],
)  # fmt: skip
def test_kernels(cc: int, width: int, n_tokens: int, gqa: int, n_kv: int, chosen: Kernel) -> None:
    """The choice of fattn.cu:683-702, family by family."""
    found = attention(width, width, gqa, n_tokens, n_kv=n_kv)
    assert kernel(found.tensor, found.src, AMD + cc) is chosen


def test_a_card_is_known_by_its_architecture() -> None:
    """One value for each; what is no architecture is any card, which takes the most and is not sure."""
    assert backend("hip", "gfx1100") is backend("hip", "gfx1100")
    assert backend("hip", "gfx1100").exact
    for name in ("gfx11-generic", "", "RDNA3", "gfx1", "gfx11000"):
        assert backend("hip", name) is HIP
    # two tokens over a quantized cache: a vector kernel reads it, matrix cores want f16
    found = attention(128, 128, 8, 2, k_type=Q8, v_type=Q8)
    one = 128 * 256 * 8 * 2
    copied = {
        name for name in ARCHITECTURES if backend("hip", name).with_scratch(1000, found) == 1024 + 2 * one
    }
    assert copied == {"gfx1100", "gfx1151", "gfx1201"}
    assert backend("hip", "gfx90a:sramecc+:xnack-").with_scratch(1000, found) == 1000
    assert HIP.with_scratch(1000, found) == 1024 + 2 * one
    assert not HIP.is_sure_of(found)
    assert backend("hip", "gfx1100").is_sure_of(found)


CACHES = st.sampled_from([BY_NAME[n] for n in ("f16", "f32", "bf16", "q8_0", "q4_0", "q5_1")])


@given(
    st.sampled_from((40, 64, 72, 80, 96, 112, 128, 256)),
    st.integers(1, 16),
    st.integers(1, 70),
    CACHES,
    CACHES,
    st.sampled_from((200, 256)),
)
def test_any_card_takes_no_less_than_each(
    width: int, gqa: int, n_tokens: int, k: TensorType, v: TensorType, n_kv: int
) -> None:
    """The rules of a card of unknown architecture are never below those of a known one."""
    found = attention(width, width, gqa, n_tokens, k, v, n_kv=n_kv)
    sizes = [backend("hip", name).with_scratch(1000, found) for name in ARCHITECTURES]
    assert HIP.with_scratch(1000, found) >= max(sizes)
    assert len(set(sizes)) < 2 or not HIP.is_sure_of(found)


def test_sorts_fit_into_shared_memory() -> None:
    """64 KiB of it, without CUB (ggml-cuda.cu:5568); CUDA sorts any row."""
    for n, wanted in ((16384, True), (16385, False)):
        found = node("ARGSORT", (n, 2), [leaf((n, 2))], BY_NAME["i32"])
        assert runs(HIP, found) is runs(backend("hip", "gfx1100"), found) is wanted
        assert runs(CUDA, found)


def test_older_builds_of_hip_lack_what_those_of_cuda_lack() -> None:
    older = backend("hip", "gfx1100", pooled_copies=True, keeps_sum=False, keeps_choice=False)
    assert (older.name, older.scratch, older.graph_optimize) == ("hip", {}, None)
