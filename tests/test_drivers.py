"""What stands behind a card's name: a backend, or a driver of Vulkan with its limits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from nodes import leaf, node
from small import dense

from vramfit._base.errors import GpuError
from vramfit._devices import Gpu, backend_of, parse_gpus, rules
from vramfit._devices.drivers import backend_words
from vramfit._estimate.estimate import estimate
from vramfit._ggml.backends import backend
from vramfit._llama.params import Settings

GIB = 1 << 30


LLAMA = replace(dense(2, n_head=8), architecture="llama")  # which has a graph


def one(words: str) -> Gpu:
    (gpu,) = parse_gpus(words)
    return gpu


@pytest.mark.parametrize(
    ("words", "alignment", "host_alignment", "max_tensor", "reached"),
    [
        ("7900xtx:radv", 4, 4096, 2**32 - 4, None),
        ("7900xtx:amd-windows", 4, 64, 2**31, None),
        ("7900xtx:AMDVLK:22GiB", 4, 64, 2**31, None),
        ("arc-b580:anv", 4, 4096, 2**32 - 1, None),
        ("arc-b580:intel-windows", 64, 64, 2**30 - 4, None),
        ("3090:vulkan", 16, 64, None, 2**32 - 1),
        ("m3-ultra-512gb:vulkan", 16, 64, None, None),
        ("24GiB:lavapipe", 16, 64, 2**27, None),
        ("24GiB:vulkan:22GiB", None, None, None, None),
    ],
)
def test_a_driver_brings_its_limits(
    words: str, alignment: int, host_alignment: int, max_tensor: int, reached: int
) -> None:
    """Figures of published device reports."""
    gpu = one(words)
    assert gpu.backend == "vulkan"
    assert (gpu.alignment, gpu.host_alignment) == (alignment, host_alignment)
    assert (gpu.max_tensor_bytes, gpu.reached_tensor_bytes) == (max_tensor, reached)
    assert gpu.free_measured is ("GiB" in words.partition(":")[2])
    known = None not in (alignment, max_tensor or reached)
    assert backend_of(gpu).exact is known
    assert estimate(LLAMA, [gpu], Settings(n_ctx=512)).exact is known


def test_the_usual_driver_of_a_vendor_is_said_to_be_taken_for_granted() -> None:
    """Where it has several; a driver that is named leaves no doubt, and so does the only one."""
    assert "counted with RADV" in one("7900xtx:vulkan").assumed
    assert "rx-7900-xtx:amd-windows" in one("7900xtx:vulkan").assumed
    assert "counted with ANV" in one("arc-b580").assumed
    assert one("arc-b580").alignment == 4
    assert one("7900xtx:radv").assumed == one("3090:vulkan").assumed == one("24GiB:radv").assumed == ""
    both = one("3060:vulkan").assumed
    assert "smallest of that name" in both
    apart = one("5060ti:cuda")
    assert apart == one("5060ti")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("7900xtx:cuda", "runs under hip, vulkan, radv, amd-windows, amdvlk"),
        ("3090:radv", "runs under cuda, vulkan, nvidia"),
        ("3090:vulcan", "'vulcan' is not a size"),
        ("3090:vulkan:radv", "'radv' is not a size"),
        ("3090:22GiB:vulkan", "is not a size"),
    ],
)
def test_words_that_a_card_cannot_mean_are_errors(words: str, said: str) -> None:
    with pytest.raises(GpuError, match=said):
        parse_gpus(words)


def test_every_word_of_every_card_makes_one() -> None:
    """Each vendor's own backend is its first word; sizes take all of them."""
    for card in ("3090", "7900xtx", "arc-b580", "m3-ultra-512gb", "24GiB"):
        vendor = {"3090": "nvidia", "7900xtx": "amd", "arc-b580": "intel", "24GiB": None}.get(card, "apple")
        for word in backend_words(vendor):
            assert one(f"{card}:{word}").backend in (word, "vulkan")
    assert one("arc-b580:sycl").alignment is None
    assert one("3090:vulkan").compute_capability is None
    assert one("3090:cuda").compute_capability == "8.6"


def test_drivers_have_sources_and_powers_of_two() -> None:
    for driver in rules().vulkan_drivers.values():
        for name in ("alignment", "host_alignment"):
            assert not driver[name] & (driver[name] - 1)
        assert driver["sources"]


def test_what_a_driver_may_not_reach_is_not_called_exact() -> None:
    """NVIDIA's driver reaches 4 GiB, and with one extension more: what is larger stays on the card, and in doubt."""
    gpu = replace(one("48GiB:nvidia"), total_bytes=512 * GIB, free_bytes=None)
    sure = estimate(LLAMA, [gpu], Settings(n_ctx=32768, flash_attn="off"))
    assert sure.exact
    found = estimate(LLAMA, [gpu], Settings(n_ctx=1 << 19, flash_attn="off"))
    assert not found.exact
    assert "reaches for certain" in found.compute_note
    assert found.gpus[0].compute > 8 * (1 << 19) * 512 * 4, "its scores are on the card"
    below = replace(gpu, reached_tensor_bytes=None, max_tensor_bytes=2**32 - 1)
    assert estimate(LLAMA, [below], Settings(n_ctx=1 << 19, flash_attn="off")).exact


def test_a_card_without_16_bit_floats_runs_no_sparse_indexer() -> None:
    assert [one(f"{n}:vulkan").fp16 for n in ("p40", "p100 16gb", "2080ti", "rx 580", "vega 64")] == [
        False, True, True, False, True,
    ]  # fmt: skip
    assert backend("vulkan", fp16=False).ops == (backend("vulkan").ops or frozenset()) - {"LIGHTNING_INDEXER"}
    with pytest.raises(GpuError, match="fp16=1"):
        replace(one("3090"), fp16=1)  # type: ignore[arg-type]


def test_reach_is_of_results_and_sources() -> None:
    rules = backend("vulkan", alignment=16, host_alignment=64, reached_tensor=1 << 27)
    small, large = leaf((1 << 20, 32)), leaf((1 << 20, 33))
    for result, source, wanted in ((small, small, True), (large, small, False), (small, large, False)):
        assert rules.is_sure_of(node("SCALE", result.ne[:2], [source])) is wanted
