"""Settings become the engine's context: padded, clamped, or refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import dense

from vramfit._base.errors import EngineRefusal
from vramfit._llama.cparams import (
    cells,
    context_step,
    needs_flash_attn,
    physical_batch,
    prompt_tokens,
    resolve,
    streams,
    trained_ctx,
)
from vramfit._llama.model import Cache, Cells
from vramfit._llama.params import CACHE_TYPES, Settings


@given(st.integers(1, 300_000), st.integers(1, 64), st.booleans())
def test_context_is_padded(n_ctx: int, slots: int, unified: bool) -> None:
    """Every stream holds a multiple of 256 cells, and together they hold what was asked for, or nearly."""
    context = resolve(dense(), Settings(n_ctx=n_ctx, n_seq_max=slots, kv_unified=unified))
    assert context.n_ctx_seq % 256 == 0
    assert context.n_ctx == context.n_ctx_seq * context.n_stream
    assert context.n_ctx >= n_ctx
    assert context.n_stream == (1 if unified else slots)


def test_zero_means_trained() -> None:
    """n_ctx 0 takes the trained length; a model without one cannot be created so."""
    assert resolve(dense(n_ctx_train=5000), Settings()).n_ctx == 5120
    with pytest.raises(EngineRefusal, match="set n_ctx"):
        resolve(dense(n_ctx_train=0), Settings())


def test_batch_is_clamped_before_padding() -> None:
    """A causal batch is no larger than the context asked for; an encoder's keeps its size."""
    assert resolve(dense(), Settings(n_ctx=100, n_batch=512)).n_batch == 100
    assert resolve(replace(dense(), is_causal=False), Settings(n_ctx=100, n_batch=512)).n_batch == 512
    assert resolve(dense(), Settings(n_ctx=4096, n_batch=64, n_ubatch=512)).n_ubatch == 64
    assert resolve(dense(), Settings(n_ctx=4096, n_batch=64, n_ubatch=0)).n_ubatch == 64


COUNTS = st.builds(
    Settings,
    n_ctx=st.integers(1, 100_000),
    n_batch=st.integers(1, 5000),
    n_ubatch=st.integers(0, 5000),
    n_seq_max=st.integers(1, 64),
    kv_unified=st.booleans(),
    op_offload=st.booleans(),
    embeddings=st.booleans(),
)


@given(COUNTS)
def test_what_is_asked_before_there_is_a_context_is_what_it_gets(settings: Settings) -> None:
    """Batch, streams, and steps between contexts are those of the context that the settings become."""
    context = resolve(dense(), settings)
    assert context.n_ubatch == min(physical_batch(settings), settings.n_ctx)
    assert context.n_stream == streams(settings)
    assert context.n_ctx % context_step(settings) == 0
    trained = resolve(dense(), replace(settings, n_ctx=trained_ctx(dense(), settings)))
    assert trained.n_ctx_seq == dense().n_ctx_train
    assert (context.op_offload, context.embeddings) == (settings.op_offload, settings.embeddings)


@pytest.mark.parametrize(
    ("asked", "became"), [("on", (True, False)), ("off", (False, False)), ("auto", (True, True))]
)
def test_flash_attention_is_on_or_off_and_says_where_that_is_open(
    asked: str, became: tuple[bool, bool]
) -> None:
    """`auto` is on until the graph is scheduled; the cache is laid out for that."""
    context = resolve(dense(), Settings(n_ctx=512, flash_attn=asked))  # type: ignore[arg-type]
    assert (context.flash_attn, context.auto_fa) == became
    assert context.v_trans is not context.flash_attn


def test_the_reserved_prompt_is_a_multiple_of_the_slots() -> None:
    """Tokens are rounded up to whole sequences, unless all are in one; a short context has no more."""
    context = resolve(dense(), Settings(n_ctx=4096, n_ubatch=500, n_seq_max=3))
    assert (prompt_tokens(context), prompt_tokens(context, one_sequence=True)) == (501, 500)
    assert prompt_tokens(resolve(dense(), Settings(n_ctx=256, n_ubatch=500))) == 256


def test_outputs_default_to_the_batch() -> None:
    """n_outputs_max 0, encoders and embeddings keep a logit row for every token of a batch."""
    assert resolve(dense(), Settings(n_ctx=4096, n_outputs_max=3)).n_outputs_max == 3
    assert resolve(dense(), Settings(n_ctx=4096)).n_outputs_max == 2048
    assert (
        resolve(replace(dense(), is_encoder=True), Settings(n_ctx=4096, n_outputs_max=3)).n_outputs_max
        == 2048
    )


@pytest.mark.parametrize("type_v", [t for t in CACHE_TYPES if t not in ("f16", "f32", "bf16")])
def test_quantized_v_needs_flash_attention(type_v: str) -> None:
    """`off` is refused, `auto` becomes `on`."""
    context = resolve(dense(), Settings(n_ctx=512, type_v=type_v))
    assert context.flash_attn
    assert not context.auto_fa
    assert needs_flash_attn(context.type_v)
    with pytest.raises(EngineRefusal, match="requires flash_attn"):
        resolve(dense(), Settings(n_ctx=512, type_v=type_v, flash_attn="off"))


def test_blocks_must_divide_heads() -> None:
    """A quantized cache row is cut head by head; next-token-prediction layers do not count."""
    model = dense(2, n_embd=160)  # heads of 40
    with pytest.raises(EngineRefusal, match="n_embd_head_k=40"):
        resolve(model, Settings(n_ctx=512, type_k="q8_0"))
    assert resolve(model, Settings(n_ctx=512, type_k="q8_0", flash_attn="off")).flash_attn is False
    nextn = replace(model, layers=tuple(replace(x, is_nextn=True) for x in model.layers))
    assert resolve(nextn, Settings(n_ctx=512, type_k="q8_0")).type_k.name == "q8_0"


def test_latent_models_want_one_type() -> None:
    """Where K and V are one tensor their types must agree."""
    model = replace(dense(), same_kv_type=True)
    assert resolve(model, Settings(n_ctx=512, type_k="q8_0", type_v="q8_0")).type_v.name == "q8_0"
    with pytest.raises(EngineRefusal, match="different K"):
        resolve(model, Settings(n_ctx=512, type_k="q8_0"))


def test_some_models_have_no_flash_attention() -> None:
    """Where the engine forces it off, asking for it changes nothing."""
    assert resolve(replace(dense(), flash_attn=False), Settings(n_ctx=512, flash_attn="on")).v_trans


WINDOW = Cache("kv", 64, 64, Cells.WINDOW, window=1000)


def test_window_cells() -> None:
    """A window holds itself and a batch, once a slot when unified, padded, at most the context."""
    assert cells(WINDOW, resolve(dense(), Settings(n_ctx=8192))) == 1536
    assert cells(WINDOW, resolve(dense(), Settings(n_ctx=1024))) == 1024
    assert cells(WINDOW, resolve(dense(), Settings(n_ctx=8192, n_seq_max=4, kv_unified=True))) == 4608
    assert cells(WINDOW, resolve(dense(), Settings(n_ctx=8192, n_seq_max=4))) == 1536
    assert cells(WINDOW, resolve(dense(), Settings(n_ctx=8192, swa_full=True))) == 8192


def test_compressed_cells() -> None:
    """One cell for every `ratio` tokens, padded."""
    cache = Cache("csa", 64, 0, Cells.COMPRESSED, ratio=128)
    assert cells(cache, resolve(dense(), Settings(n_ctx=65536))) == 512
    assert cells(cache, resolve(dense(), Settings(n_ctx=65792))) == 768
