"""The replay against a living engine: random settings on random small models. Skipped where it is not installed."""

from __future__ import annotations

import sys

import pytest
from conftest import ROOT, TRUTH
from hypothesis import given
from hypothesis import strategies as st

from vramfit._ggml.backends import backend
from vramfit._ggml.galloc import reserve
from vramfit._ggml.sched import copies_of_inputs, schedule

sys.path.insert(0, str(ROOT))
binding = pytest.importorskip("tools.engine.binding")
if not binding.is_available() or not TRUTH.is_dir():
    pytest.skip("the engine is not installed here", allow_module_level=True)

from tools.engine.load import Refused  # noqa: E402
from tools.engine.measure import measure  # noqa: E402
from tools.engine.trace import to_graph, trace  # noqa: E402

HEADERS = sorted([*(TRUTH / "arch").glob("*.gguf"), *(TRUTH / "models").glob("*.gguf")])
CACHES = st.sampled_from(("f16", "bf16", "f32", "q8_0", "q4_0", "iq4_nl"))
SETTINGS = st.fixed_dictionaries(
    {
        "n_ctx": st.integers(1, 64).map(lambda n: n * 1024),
        "n_ubatch": st.sampled_from((32, 128, 512, 1000)),
        "flash_attn": st.sampled_from(("on", "off", "auto")),
        "compute_capability": st.sampled_from(("6.1", "7.0", "7.5", "8.6", "8.9", "9.0", "12.0")),
    },
    optional={
        "n_seq_max": st.integers(1, 4),
        "kv_unified": st.booleans(),
        "n_outputs_max": st.integers(1, 100),
        "type_k": CACHES,
        "type_v": CACHES,
        "n_gpu_layers": st.integers(0, 4),
        "offload_kqv": st.booleans(),
        "op_offload": st.booleans(),
        "swa_full": st.booleans(),
        "tensor_split": st.lists(st.integers(1, 5).map(float), min_size=4, max_size=4),
        "cpu_tensors": st.just(["ffn_(up|down|gate)"]),
    },
)


@given(st.sampled_from(HEADERS), st.lists(st.sampled_from((8192, 24564)), max_size=4), SETTINGS)
def test_replay_is_the_engines_reservation(header, gpus_mib, settings) -> None:  # type: ignore[no-untyped-def]
    """Whatever a small model is run with, the replay of its graphs takes the bytes the engine reserves."""
    row = measure(header, gpus_mib, settings)
    if "refused" in row:
        with pytest.raises(Refused):
            trace(header, gpus_mib, **settings)
        return
    graphs = [to_graph(dump) for dump in trace(header, gpus_mib, **settings)]
    devices = [backend("cuda", settings["compute_capability"])] * len(gpus_mib)
    layers = 1 + max(int(t.name.split(".")[1]) for t in graphs[0].tensors if t.name.startswith("blk."))
    n_copies = copies_of_inputs(
        devices,
        all_layers=settings.get("n_gpu_layers", layers + 1) > layers,
        split_by_layer=True,
        offload_kqv=settings.get("offload_kqv", True),
        overrides="cpu_tensors" in settings,
    )
    offload = settings.get("op_offload", True)
    plans = [schedule(g, devices, n_copies=n_copies, op_offload=offload) for g in graphs]
    assert reserve(plans) == (*(g["compute"] for g in row["gpus"]), row["host"]["compute"])
