"""Terms add up: what an explanation shows of a figure is all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu, shortened

from vramfit._estimate.explain import explain
from vramfit._llama.params import Settings
from vramfit._report.explained import explained_text
from vramfit._sources.load import read

EXAMPLES = Path(__file__).parents[1] / "examples"
GEMMA = shortened(read(EXAMPLES / "gemma-3-12b-q4_k_m.gguf"), 8)


@examples(6)
@given(st.integers(256, 30_000), st.integers(1, 3), st.sampled_from([-1, 5]), st.sampled_from(["on", "off"]))
def test_terms_add_up_to_the_figures(
    n_ctx: int, n: int, n_gpu_layers: int, flash: Literal["on", "off"]
) -> None:
    """Weights, context and compute of every device equal the sum of their terms, for a graph and for a bound."""
    settings = Settings(n_ctx=n_ctx, n_gpu_layers=n_gpu_layers, flash_attn=flash, n_outputs_max=1)
    for model in (GEMMA, dense(tied=True)):
        for found in explain(model, [gpu(80_000)] * n, settings):
            for part in ("model", "context", "compute"):
                terms = getattr(found, part)
                assert sum(t.n_bytes for t in terms) == getattr(found.device, part), part


def test_the_largest_tensors_of_a_compute_buffer_are_named() -> None:
    """Logits of a whole batch are what fills the card that holds the output."""
    found = explain(GEMMA, [gpu(80_000)], Settings(n_ctx=4096, flash_attn="on"))[0]
    if not found.device.compute_exact:
        pytest.skip("no graph of this architecture")
    largest = found.compute[0]
    assert largest.n_bytes == 512 * GEMMA.n_vocab * 4
    assert "bound" not in explained_text([found])


def test_a_bound_says_that_its_terms_are_not_known() -> None:
    """Where there is no graph, compute is one term with the reason."""
    found = explain(dense(), [gpu(80_000)], Settings(n_ctx=4096))[0]
    assert [t.name for t in found.compute] == ["upper bound"]
    assert found.compute[0].why


def test_only_cards_in_use_are_explained() -> None:
    """With split_mode none the other card has nothing to explain."""
    found = explain(
        dense(), [gpu(name="a"), gpu(name="b")], Settings(n_ctx=512, split_mode="none", main_gpu=1)
    )
    assert [x.device.name for x in found] == ["b", "host"]
