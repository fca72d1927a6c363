"""A sweep beside a draft and a projector: every point is what `estimate` says of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from conftest import ROOT, examples
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu
from test_lent import cards as large
from test_lent import paired

import vramfit
from vramfit._base.errors import SettingsError
from vramfit._company import Company, Draft
from vramfit._company.drafts import is_tapped
from vramfit._devices import Gpu
from vramfit._estimate.estimate import estimate
from vramfit._llama.model import Model
from vramfit._llama.params import FlashAttn, Settings
from vramfit._planner.sweep import Sweep, sweep

MODEL = dense(6, n_ctx_train=1 << 17)
DRAFT = replace(dense(2, n_vocab=4096, n_ctx_train=1 << 17), architecture="llama")
CONTEXTS = (256, 2048, 3000, 16384)


def check(found: Sweep, model: Model, gpus: list[Gpu], settings: Settings, host: Any = None) -> None:
    """Compare every point with `estimate`: equal where it is called exact, else no less."""
    row: Any
    for row in found:
        at = replace(
            settings, n_ctx=row["n_ctx"], n_seq_max=row["n_seq_max"], n_ubatch=row["n_ubatch"],
            type_k=row["type_k"], type_v=row["type_v"],
        )  # fmt: skip
        said = estimate(model, gpus, at, host=host)
        devices = [(f"gpu{i}", g) for i, g in enumerate(said.gpus)] + [("host", said.host)]
        sizes = [(row[f"{name}_{term}"], getattr(d, term)) for name, d in devices
                 for term in ("model", "context", "compute", "company")]  # fmt: skip
        bounded = is_tapped(settings)  # what the model keeps for such a draft
        assert row["exact"] == (said.exact and not bounded), row["n_ctx"]
        assert all(a == b if row["exact"] else a >= b for a, b in sizes)
        judged = [d.left for d in said.gpus if d.total] + ([said.host.left] if host else [])
        if all(a == b for a, b in sizes):
            assert row["left"] == min(judged)


def beside(**told: Any) -> Model:
    return replace(MODEL, company=Company(Draft(DRAFT, **told)))


SPECULATING = Settings(spec_type="draft-simple", n_outputs_max=8, tensor_split=(4.0, 2.0))


@examples(8)
@given(
    st.sampled_from([None, (0,), (1,), ()]),
    st.sampled_from([-1, 1]),
    st.booleans(),
    st.sampled_from(["on", "off", "auto"]),
    st.booleans(),
)
def test_every_point_beside_a_draft_is_an_estimate(
    devices: tuple[int, ...] | None, layers: int, unified: bool, flash_attn: FlashAttn, on_host: bool
) -> None:
    """On the model's cards, on one of them, on the host alone; over slots, batches and cache types."""
    gpus = [gpu(4096), gpu(2048)]
    model = beside(devices=devices, n_gpu_layers=layers, type_k="q8_0" if flash_attn == "on" else "f16")
    settings = replace(SPECULATING, kv_unified=unified, flash_attn=flash_attn)
    host = "64GiB" if on_host else None
    found = sweep(
        model, gpus, settings, n_ctx=CONTEXTS, n_seq_max=[1, 3], n_ubatch=[64, 512], replays=None, host=host,
        type_k=["f16", "q8_0"] if flash_attn == "on" else "f16",
    )  # fmt: skip
    assert any(row["host_company"] or row["gpu0_company"] or row["gpu1_company"] for row in found)
    check(found, model, gpus, settings, host)


def test_few_replays_are_never_too_low_beside_a_draft() -> None:
    """Points that the work does not reach are bounds, and say so."""
    gpus = [gpu(4096)]
    settings = Settings(spec_type="draft-simple", n_outputs_max=2, flash_attn="on")
    found = sweep(beside(), gpus, settings, n_ctx=range(256, 40000, 777), replays=4)
    assert not found.columns["exact"].all()
    row: Any
    for row in found:
        said = estimate(beside(), gpus, replace(settings, n_ctx=row["n_ctx"]))
        assert row["gpu0_company"] >= said.gpus[0].company


@pytest.mark.parametrize("name", ["dflash", "assistant", "eagle3"])
def test_drafts_that_read_their_target(name: str) -> None:
    """What is lent is lent at every point; what the model keeps for its draft is added, as an upper bound."""
    types = {"dflash": "draft-dflash", "assistant": "draft-mtp", "eagle3": "draft-eagle3"}
    settings = Settings(spec_type=types[name], n_outputs_max=4, flash_attn="on")
    model = paired(name)
    found = sweep(model, large(1), settings, n_ctx=[4096, 8192], replays=None)
    check(found, model, large(1), settings)


def test_a_projector_is_the_same_at_every_point() -> None:
    model = vramfit.accompany(
        vramfit.read(ROOT / "examples/gemma-3-12b-q4_k_m.gguf"),
        mmproj=ROOT / "examples/beside/mmproj-gemma-3-12b-f16.gguf",
    )
    settings = vramfit.server_settings(flash_attn="on", n_ctx=4096)
    gpus = vramfit.parse_gpus("3060-12gb")
    found = sweep(model, gpus, settings, n_ctx=[4096, 16384], replays=None)
    check(found, model, list(gpus), settings)
    assert len(set(found.columns["gpu0_company"].tolist())) == 1
    chip = [replace(gpus[0], unified=True, backend="metal")]
    check(sweep(model, chip, settings, n_ctx=4096, replays=None), model, chip, settings)


def test_a_chip_with_the_systems_memory_counts_the_company_on_the_host() -> None:
    """Beside a draft on the host alone, and one on the chip: what is left is what an estimate leaves."""
    chip = [replace(gpu(8192), unified=True)]
    settings = Settings(spec_type="draft-eagle3", n_outputs_max=2, flash_attn="on")
    for devices in (None, ()):
        model = beside(devices=devices)
        check(sweep(model, chip, settings, n_ctx=CONTEXTS, replays=None), model, chip, settings)


def test_what_a_draft_locks_counts_against_the_host() -> None:
    """Pages that are locked beside its tensors are the draft's, too."""
    model = beside(n_gpu_layers=1)
    settings = Settings(spec_type="draft-simple", n_outputs_max=2, flash_attn="on", load_mode="mmap+mlock")
    found = sweep(model, [gpu(8192)], settings, n_ctx=512, replays=None, host="1GiB")
    check(found, model, [gpu(8192)], settings, "1GiB")


def test_without_company_there_is_no_such_column() -> None:
    assert not any("company" in name for name in sweep(MODEL, "3090ti", n_ctx=512).columns)


def test_what_a_sweep_does_not_count_is_refused() -> None:
    """A draft that is divided by what the model leaves free, which no formula says; next-token layers of the model itself."""
    with pytest.raises(SettingsError, match="give a tensor_split, or the draft one card"):
        sweep(beside(), [gpu(4096), gpu(2048)], Settings(spec_type="draft-simple"), n_ctx=512)
    with pytest.raises(SettingsError, match="leave out draft-mtp"):
        sweep(MODEL, "3090ti", Settings(spec_type="draft-mtp"), n_ctx=512)
