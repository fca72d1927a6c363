"""What is loaded beside a model is counted on the cards where the engine puts it, and plans leave room for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from small import F16, dense, gpu
from test_plan import MARGIN, MODEL, splits

import vramfit
from vramfit._base.errors import ModelError, SettingsError
from vramfit._company import Company, Draft
from vramfit._company.drafts import check_vocabulary, inferred
from vramfit._devices import Gpu
from vramfit._estimate.company import company_at_least, company_bytes
from vramfit._estimate.estimate import estimate
from vramfit._llama.model import Model, Tensor
from vramfit._llama.params import FlashAttn, Settings
from vramfit._llama.speculation import drafted, kept_rows, snapshots, spec_types
from vramfit._planner.plan import plan

DRAFT = replace(dense(2, n_vocab=4096, n_ctx_train=1 << 17), architecture="llama")
SPECULATING = Settings(n_seq_max=2, n_outputs_max=8, spec_type="draft-simple", n_ctx=4096)


def drafting(draft: Model = DRAFT, **told: object) -> Model:
    return replace(MODEL, company=Company(Draft(draft, **told)))  # type: ignore[arg-type]


def test_a_draft_runs_as_the_model_does() -> None:
    """Its context is as long, its slots and batches are the model's; its cache types and layers its own."""
    cards = [gpu(4096), gpu(2048)]
    settings = replace(SPECULATING, type_k="q8_0", type_v="q8_0", tensor_split=(4.0, 2.0))
    found = estimate(drafting(type_k="f32", n_gpu_layers=2), cards, settings)
    alone = estimate(MODEL, cards, settings)
    own = replace(settings, type_k="f32", type_v="f16", n_gpu_layers=2, n_outputs_max=2, spec_type="none")
    draft = estimate(DRAFT, cards, own)
    (companion,) = found.company
    assert companion.kind == "draft"
    assert companion.exact == draft.exact
    for a, b, c, d in zip(found.gpus, alone.gpus, draft.gpus, companion.gpus, strict=True):
        assert (a.company, a.total, d.total) == (c.total, b.total + c.total, c.total)
    assert found.host.total == alone.host.total + draft.host.total
    assert any(c.total for c in companion.gpus)
    assert companion.host.total


def test_a_draft_may_have_cards_of_its_own() -> None:
    """With `devices` it is on these alone; with none of them on the host."""
    cards = [gpu(4096), gpu(2048)]
    on_second = estimate(drafting(devices=(1,)), cards, SPECULATING)
    assert [g.company > 0 for g in on_second.gpus] == [False, True]
    on_host = estimate(drafting(devices=()), cards, SPECULATING)
    assert not any(g.company for g in on_host.gpus)
    assert on_host.host.company
    with pytest.raises(SettingsError, match="there is no card 2"):
        estimate(drafting(devices=(2,)), cards, SPECULATING)


def test_what_the_model_leaves_divides_a_draft() -> None:
    """Without shares both are divided by free memory, the draft by what is left then: that is not called exact."""
    cards = [gpu(4096), gpu(2048)]
    found = estimate(drafting(), cards, SPECULATING)
    assert not found.exact
    assert "leaves free" in found.company[0].note
    assert not estimate(drafting(), cards[:1], SPECULATING).company[0].note


def carried(model: Model, cards: list[Gpu], settings: Settings) -> bool:
    return all(g.left >= MARGIN for g in estimate(model, cards, settings).gpus if g.total)


@examples(12)
@given(st.integers(60, 700), st.integers(1, 3), st.sampled_from(["on", "off"]))
def test_no_larger_context_fits_one_card(mib: int, slots: int, flash_attn: FlashAttn) -> None:
    """With a draft beside it the plan's context fits, and none of the larger ones does: tried one by one from the top."""
    settings = replace(SPECULATING, n_ctx=0, n_seq_max=slots, flash_attn=flash_attn, kv_unified=True)
    model, cards = drafting(), [gpu(mib)]
    found = plan(model, cards, settings, margin_bytes=MARGIN, max_ctx=24 * 256)
    fitting = [n for n in range(256, 24 * 256 + 1, 256) if carried(model, cards, replace(settings, n_ctx=n))]
    assert (found.n_ctx if found.fits else 0) == max(fitting, default=0)


@examples(8)
@given(st.integers(60, 400), st.integers(60, 400))
def test_a_plan_over_cards_holds_with_its_draft(first: int, second: int) -> None:
    """What is planned fits as estimated; with a draft on one card no split carries a larger context."""
    settings = replace(SPECULATING, n_ctx=0, kv_unified=True)
    for model in (drafting(devices=(0,)), drafting()):
        cards = [gpu(first, name="a"), gpu(second, name="b")]
        found = plan(model, cards, settings, margin_bytes=MARGIN, max_ctx=8 * 256)
        if found.fits:
            assert carried(model, cards, found.settings)
        if model.company != Company(Draft(DRAFT)):
            higher = range(found.n_ctx + 256 if found.fits else 256, 8 * 256 + 1, 256)
            for n in higher:
                for split in splits(MODEL.n_layer + 1, 2):
                    asked = replace(settings, n_ctx=n, tensor_split=tuple(map(float, split)))
                    assert not carried(model, cards, asked)


def test_what_is_beside_never_falls_below_its_floor() -> None:
    """The floor at a context is no more than what is taken there, or at any larger one."""
    model, cards = drafting(), [gpu(4096)]
    sizes = [company_bytes(model, cards, SPECULATING, n, estimate).gpus[0] for n in range(256, 8192, 768)]
    floors = [company_at_least(model, cards, SPECULATING, n, estimate).gpus[0] for n in range(256, 8192, 768)]
    assert floors == sorted(floors)
    assert all(floor <= min(sizes[i:]) for i, floor in enumerate(floors))
    assert all(floor > 0 for floor in floors)


@pytest.mark.parametrize(
    ("spec_type", "n", "rows", "states"),
    [("none", 0, 2, 0), ("draft-simple", 5, 12, 0), ("draft-mtp", 5, 12, 5), ("ngram-mod", 64, 128, 0),
     ("draft-mtp,ngram-cache", 8, 18, 5), ("draft-simple,none", 0, 2, 0)],
)  # fmt: skip
def test_rows_that_speculation_keeps(spec_type: str, n: int, rows: int, states: int) -> None:
    """A slot keeps a row for its token and one for each proposed, as many as a batch has; some keep states as well."""
    s = Settings(n_seq_max=2, n_batch=128, spec_type=spec_type, spec_draft_n_max=5)
    assert (drafted(s), kept_rows(s), snapshots(s)) == (n, rows, states)
    assert ("none" in spec_type) == (not spec_types(s))


def test_an_unknown_kind_of_speculation_is_refused() -> None:
    """The message names the kinds that there are."""
    with pytest.raises(
        SettingsError, match="spec_type='draft-magic': give one or more of none, draft-simple"
    ):
        Settings(spec_type="draft-magic")


def test_a_draft_of_another_family_is_refused() -> None:
    """Another kind of tokenizer, or another number of tokens; a table from its tokens to the model's makes up for that."""
    check_vocabulary(DRAFT, replace(DRAFT, n_vocab=DRAFT.n_vocab + 128))
    with pytest.raises(
        ModelError, match=r"4,225 tokens and the model 4,096; give a draft of the same family"
    ):
        check_vocabulary(DRAFT, replace(DRAFT, n_vocab=DRAFT.n_vocab + 129))
    with pytest.raises(ModelError, match="tokenizer is 'gpt2' and the model's 'llama'"):
        check_vocabulary(replace(DRAFT, tokenizer="llama"), replace(DRAFT, tokenizer="gpt2"))
    check_vocabulary(replace(DRAFT, tokenizer="llama"), replace(DRAFT, tokenizer="none"))
    mapped = (*DRAFT.tensors, Tensor("d2t.weight", (1024,), F16))
    check_vocabulary(DRAFT, replace(DRAFT, n_vocab=1024, tensors=mapped))


def test_the_kind_of_speculation_is_in_the_file() -> None:
    """A draft that says how it drafts needs no --spec-type."""

    def named(name: str) -> Model:
        return replace(DRAFT, tensors=(*DRAFT.tensors, Tensor(name, (8, 8), F16)))

    assert inferred(MODEL) == inferred(drafting()) == {}
    assert inferred(drafting(replace(DRAFT, architecture="dflash"))) == {"spec_type": "draft-dflash"}
    spark = replace(named("markov_w1.weight"), architecture="dflash")
    assert inferred(drafting(spark)) == {"spec_type": "draft-dspark"}
    assert inferred(drafting(named("blk.1.nextn.eh_proj.weight"))) == {"spec_type": "draft-mtp"}


def test_a_draft_that_reads_layers_keeps_them() -> None:
    """Inputs of layers that the model keeps for it are bounded, on the model's cards and the host, and said."""
    cards = [gpu(4096)]
    plain = estimate(drafting(), cards, SPECULATING)
    found = estimate(drafting(), cards, replace(SPECULATING, spec_type="draft-eagle3"))
    kept = 8 * MODEL.n_embd * 512 * 4
    assert "upper bound" in found.company[0].note
    assert not found.company[0].exact
    assert found.gpus[0].company == plain.gpus[0].company + kept
    batch = 8 * MODEL.n_embd * 2048 * 4  # the host reads those of a whole batch
    assert found.host.company == plain.host.company + kept + batch


def test_a_draft_without_a_graph_is_a_formula() -> None:
    """It never falls, so the floor is the whole of it."""
    strange, cards = drafting(replace(DRAFT, architecture="hrm_text")), [gpu(8192)]
    told = estimate(strange, cards, SPECULATING).company[0]
    assert not told.exact
    assert company_at_least(strange, cards, SPECULATING, 4096, estimate).gpus == (told.gpus[0].total,)


@pytest.mark.parametrize(
    ("told", "message"),
    [({"draft_type_k": "q9"}, "draft_type_k='q9': give one of f32"), ({"draft_devices": [0, 0]}, "each once"),
     ({"draft_devices": [-1]}, "counted from 0"), ({"draft_devices": [16]}, "indexes of cards")],
)  # fmt: skip
def test_what_a_draft_cannot_be_told(told: dict[str, object], message: str) -> None:
    """With the name and the value."""
    with pytest.raises(SettingsError, match=message):
        vramfit.accompany(DRAFT, draft=DRAFT, **told)  # type: ignore[arg-type]
