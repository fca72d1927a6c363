"""Few layers stand for all, and what they say is what all of them take."""

from __future__ import annotations

import pytest
from conftest import ROOT
from small import gpu

from vramfit._estimate.reserve import needs_of_all, prepare_case, reservations
from vramfit._ggml.backends import backend
from vramfit._ggml.galloc import allocate
from vramfit._llama.cparams import resolve
from vramfit._llama.model import Model
from vramfit._llama.params import EXPERTS, Settings
from vramfit._llama.placement import place
from vramfit._sources.load import read

MODELS = [read(path) for path in sorted((ROOT / "examples").glob("*.gguf"))]
KEPT_BACK = {
    "nothing": {},
    "the cache": {"offload_kqv": False},
    "feed-forward weights": {"cpu_tensors": (r"blk\.\d+\.ffn_up", EXPERTS)},
    "layers": {"n_gpu_layers": 40},
}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.architecture)
@pytest.mark.parametrize("kept_back", KEPT_BACK.values(), ids=KEPT_BACK)
def test_each_step_of_the_ladder_says_what_all_layers_say(model: Model, kept_back: dict[str, object]) -> None:
    """Where the proof holds the bytes are those of the whole graph, and it holds before all layers are built."""
    settings = Settings(n_ctx=8192, n_ubatch=64, flash_attn="off", tensor_split=(2, 3), **kept_back)  # type: ignore[arg-type]
    gpus = [gpu()] * 2
    placement = place(model, gpus, settings)
    context = resolve(model, settings)
    case = prepare_case(model, placement, context, [backend("cuda", "8.6")] * 2)
    last = len(case.ladder) - 1
    assert len(case.ladder[last].kept) == model.n_layer
    for run in dict.fromkeys(reservations(case, context)):
        whole = allocate(case.graph(run, last)[1])
        found = [needs_of_all(case, step, *case.graph(run, step)) for step in range(last)]
        assert any(found) or not last
        assert all(needs == whole for needs in found if needs is not None)


def test_layers_of_several_k_quants_are_repeats() -> None:
    """A quarter of the layers of a Q4_K_M have wider matrices, which no compute buffer sees."""
    model = next(m for m in MODELS if len({w.tensor.type.use for w in m.weights}) == 2)
    assert len({w.tensor.type for w in model.weights}) > 2
    settings = Settings(n_ctx=8192)
    placement = place(model, [gpu()], settings)
    case = prepare_case(model, placement, resolve(model, settings), [backend("cuda", "8.6")])
    assert len(case.ladder[0].kept) * 2 < model.n_layer
