"""What a log prints of a draft, of next-token layers and of a projector stands beside what is counted of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from conftest import ROOT
from small import dense, gpu
from test_next_tokens import model_of
from test_verify import MODEL, mib, printed

import vramfit
from vramfit._company import Company, Draft
from vramfit._company.drafts import draft_settings
from vramfit._estimate.estimate import Estimate, estimate
from vramfit._llama.params import Settings
from vramfit._report.verifications import notes
from vramfit._verify import Verification, verify

CARD = gpu(8192, name="NVIDIA GeForce RTX 3090")
DRAFT = Draft(replace(dense(n_layer=3, n_vocab=65536), architecture="llama", name="Small"))
SETTINGS = Settings(n_ctx=4096, flash_attn="on", n_outputs_max=4, spec_type="draft-simple")
BESIDE = replace(MODEL, company=Company(DRAFT))


def log_of_both(off: int = 0) -> str:
    """A server's log: the model's load, then its draft's, whose weights are said `off` bytes larger."""
    own = draft_settings(DRAFT, SETTINGS, 4096)
    drafted = estimate(DRAFT.model, [CARD], own)
    card = replace(drafted.gpus[0], model=drafted.gpus[0].model + off)
    second = printed(replace(drafted, gpus=(card,)), DRAFT.model)
    return f"{printed(estimate(MODEL, [CARD], SETTINGS), MODEL)}\n{second}"


def rows(found: Verification) -> dict[str, bool]:
    return {row.kind: row.agrees for row in found.rows if row.device == "CUDA0"}


def told(log: str, model: vramfit.Model = BESIDE, **over: Any) -> Verification:
    return verify(model, log, {"spec_type": "draft-simple", "n_outputs_max": 4, **over})


def test_a_drafts_own_load_has_rows() -> None:
    """The model's load is taken, though the draft's is last; both agree."""
    found = told(log_of_both())
    assert (found.at, found.loads, found.verdict) == (1, 2, "equal")
    assert rows(found) == dict.fromkeys(
        ("model", "context", "compute", "draft model", "draft context", "draft compute"), True
    )
    assert "draft context" in str(found)


def test_a_draft_that_takes_something_else_differs() -> None:
    found = told(log_of_both(off=300 << 20))
    assert not rows(found)["draft model"]
    assert rows(found)["model"]
    assert found.verdict in ("lower", "near")


def test_without_a_draft_the_models_load_is_taken_all_the_same() -> None:
    """Of loads of several models the last one of the model's own; a number chooses any."""
    found = told(log_of_both(), MODEL, spec_type="none")
    assert (found.at, found.verdict) == (1, "equal")
    assert told(log_of_both(), DRAFT.model, spec_type="none", n_outputs_max=1).at == 2
    assert verify(MODEL, log_of_both(), load=2).verdict == "other model"


def test_a_command_with_a_draft_is_not_called_uncounted_where_it_is_counted() -> None:
    line = "llama-server -m a.gguf -md b.gguf --spec-type draft-simple --lora c.gguf\n"
    assert any("a draft beside" in text for text in told(line + log_of_both(), MODEL).taken)
    taken = told(line + log_of_both()).taken
    assert not any("a draft beside" in text for text in taken)


def test_next_token_layers_are_another_context() -> None:
    """Their cache and buffers stand in rows, and are not said to be left out."""
    model = model_of("mtp-glm4moe")
    settings = Settings(
        n_ctx=8192, n_seq_max=2, n_outputs_max=8, spec_type="draft-mtp", spec_draft_n_max=3, flash_attn="on"
    )
    found = estimate(model, [CARD], settings)
    terms = found.company[0].gpus[0]
    log = "\n".join([
        printed(found, model),
        "srv    load_model: creating MTP draft context against the target model",
        f"llama_kv_cache:      CUDA0 KV buffer size = {mib(terms.context)}",
        f"sched_reserve:      CUDA0 compute buffer size = {mib(terms.compute)}",
        f"sched_reserve:      CUDA0 compute buffer size = {mib(terms.compute)}",
    ])  # fmt: skip
    over = {"spec_type": "draft-mtp", "spec_draft_n_max": 3, "n_outputs_max": 8, "n_seq_max": 2}
    checked = verify(model, log, over)
    got = rows(checked)
    assert (got["next-token layers context"], got["next-token layers compute"]) == (True, True)
    assert not any("another context" in note for note in notes(checked))
    alone = verify(model, log, {"n_outputs_max": 8, "n_seq_max": 2})
    assert any("another context" in note for note in notes(alone))


@pytest.mark.parametrize("off", [0, 5 << 20])
def test_a_projectors_buffers_have_a_row(off: int) -> None:
    """What it reserves on its card; its weights are printed of no device."""
    model = vramfit.accompany(
        vramfit.read(ROOT / "examples/gemma-3-12b-q4_k_m.gguf"),
        mmproj=ROOT / "examples/beside/mmproj-gemma-3-12b-f16.gguf",
    )
    card = gpu(24576, name="NVIDIA GeForce RTX 3090")
    found: Estimate = estimate(model, [card], Settings(n_ctx=4096, flash_attn="on", n_outputs_max=1))
    (projector,) = found.company
    size = projector.gpus[0].compute + off
    log = f"{printed(found, model)}\nalloc_compute_meta:      CUDA0 compute buffer size = {mib(size)}\n"
    checked = verify(model, log, {"n_outputs_max": 1}, causes=False)
    (row,) = [r for r in checked.rows if r.kind == "projector compute"]
    assert (row.agrees, row.judged) == (not off, True)
