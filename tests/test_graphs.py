"""Templates: their texts, their expressions, and the graphs that they make, against what the engine built."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu, mixture
from traces import NAMES, trace

from vramfit._estimate.estimate import estimate
from vramfit._ggml.graph import COMPUTE, NONE, Graph
from vramfit._ggml.types import BY_NAME
from vramfit._graphs import OutsideTemplate, Run, architectures, build, prepare, template_for
from vramfit._graphs.dims import Scope, header_value, holds, literals
from vramfit._graphs.expressions import Expression, evaluate, format_expression, parse_expression
from vramfit._graphs.rules import Shape, derive, possible, result_type
from vramfit._graphs.text import (
    Line,
    format_line,
    format_template,
    parse_guard,
    parse_line,
    parse_template,
)
from vramfit._llama.cparams import resolve
from vramfit._llama.model import Cells, Home, Model, Tensor, Weight
from vramfit._llama.params import Settings
from vramfit._llama.placement import HOST, Placement
from vramfit._sources.load import read

F32, F16 = BY_NAME["f32"], BY_NAME["f16"]
FOLDER = Path(__file__).parents[1] / "src/vramfit/_graphs/templates"

# --- expressions

numbers = st.integers(0, 9)
variables = st.sampled_from(("n_embd", "a1", "@attn_q.weight:1", ".ssm.state_size", "$token_embd.weight:0"))
expressions: st.SearchStrategy[Expression] = st.recursive(
    numbers | variables,
    lambda e: st.tuples(st.sampled_from(("+", "-", "*", "/", "min", "max", "pad", "ceil")), e, e),
    max_leaves=8,
)


@given(expressions)
def test_an_expression_reads_as_it_is_written(e: Expression) -> None:
    """Parsing the text of an expression gives the expression."""
    assert parse_expression(format_expression(e)) == e


@given(st.integers(1, 1000), st.integers(1, 50))
def test_a_division_leaves_no_remainder(a: int, b: int) -> None:
    """`a/b` is exact, or outside the template; `ceil` and `pad` round up."""
    values = {"a": a, "b": b}.__getitem__
    if a % b:
        with pytest.raises(OutsideTemplate, match="does not divide"):
            evaluate(("/", "a", "b"), values)
    else:
        assert evaluate(("/", "a", "b"), values) * b == a
    assert evaluate(("ceil", "a", "b"), values) == -(-a // b)
    assert evaluate(("pad", "a", "b"), values) == -(-a // b) * b


@pytest.mark.parametrize("text", ["", "a+", "a b", "min(a)", "(a", "a)", "*a", "a$"])
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_expression(text)


# --- lines and templates

LINES = [
    "inp_pos = input() : i32 [n_tokens] once input",
    "Qcur = mul_mat(@attn_q.weight, attn_norm)",
    "Qcur = rope(Qcur, inp_pos, $rope_freqs.weight?)",
    "Qcur#2 = view(Qcur|embd) [a0; a1; n_tokens/n_stream; n_stream] /[sa1; ~; a0*n_head] within if !krot & fa | last",
    "ffn_moe_out = sum_slices(ffn_moe_weighted) x n_expert_used",
    "indexer_score = sum_heads(unary) x .attention.indexer.head_count",
    "attn_inp_kq_mask = input() : f16 [n_kv; n_tokens] once input unread if gather",
    "%k = cache() : K [kv.k; n_kv; n_stream]",
]


@pytest.mark.parametrize("text", LINES)
def test_a_line_reads_as_it_is_written(text: str) -> None:
    assert format_line(parse_line(text)) == text


def test_what_is_no_line_is_refused() -> None:
    with pytest.raises(ValueError, match="no line"):
        parse_line("Qcur is what it is")


@pytest.mark.parametrize("name", architectures())
def test_a_template_reads_as_it_is_written(name: str) -> None:
    text = (FOLDER / f"{name}.txt").read_text()
    template = parse_template(text)
    assert format_template(template) == text
    assert template.architecture == name
    assert template.blocks[0].name == "prologue"
    assert template.blocks[-1].name == "epilogue"


def test_no_template_is_outside() -> None:
    with pytest.raises(OutsideTemplate, match="no graph of nothing"):
        template_for("nothing")


# --- ggml's rules


def shape(*ne: int) -> Shape:
    a, b, c, d = (*ne, 1, 1, 1, 1)[:4]
    return Shape(F32, (a, b, c, d), (4, 4 * a, 4 * a * b, 4 * a * b * c))


def test_rules_give_the_extents_of_results() -> None:
    assert derive("mul_mat", [shape(8, 5), shape(8, 3, 2)]) == ((5, 3, 2, 1), None)
    assert derive("mul_mat_id", [shape(8, 5, 4), shape(8, 1, 3), shape(2, 3)]) == ((5, 2, 3, 1), None)
    assert derive("get_rows", [shape(8, 100), shape(7)]) == ((8, 7, 1, 1), None)
    assert derive("concat.1", [shape(8, 2), shape(8, 3)]) == ((8, 5, 1, 1), None)
    assert derive("glu", [shape(8, 3)]) == ((4, 3, 1, 1), None)
    assert derive("glu", [shape(8, 3), shape(8, 3)]) == ((8, 3, 1, 1), None)
    assert derive("permute.0213", [shape(8, 3, 2)]) == ((8, 2, 3, 1), (4, 96, 32, 192))
    assert derive("transpose", [shape(8, 3)]) == ((3, 8, 1, 1), (32, 4, 96, 96))
    assert derive("flash_attn_ext", [shape(8, 3, 4), shape(8, 9, 2), shape(6, 9, 2)]) == ((6, 4, 3, 1), None)
    assert derive("ssm_conv", [shape(12, 5, 2), shape(4, 5)]) == ((9, 5, 2, 1), None)
    assert derive("reshape", [shape(8)]) is None
    assert derive("an operation of tomorrow", []) is None


def test_rules_give_the_types_of_results() -> None:
    half = Shape(F16, (8, 1, 1, 1), (2, 16, 16, 16))
    assert result_type("view", [half]) is F16
    assert result_type("set_rows", [shape(8), shape(1), half]) is F16
    assert result_type("mul_mat", [half, shape(8)]) is F32
    assert result_type("argsort", [shape(8)]).name == "i32"
    assert result_type("get_rows", [half, shape(1)]) is F32
    assert result_type("add", [half, half]) is F16


# --- building


def one_card(model: Model) -> Placement:
    weights = tuple(HOST if w.home is Home.INPUT else 0 for w in model.weights)
    return Placement(1, (0,) * (model.n_layer + 1), weights, (0,) * model.n_layer)


def llama(**changes: object) -> Model:
    return replace(dense(), architecture="llama", **changes)  # type: ignore[arg-type]


def run(model: Model, n_tokens: int = 64, **settings: object) -> Run:
    context = resolve(model, Settings(**{"n_ctx": 4096, "flash_attn": "on", **settings}))  # type: ignore[arg-type]
    n = context.n_seq_max
    return Run(context, n_tokens, n, min(n_tokens, 4), flash_attn=context.flash_attn)


def ops(graph: Graph) -> list[str]:
    return [graph.tensors[i].op for i in graph.nodes]


def test_flash_attention_replaces_the_scores() -> None:
    model = llama()
    prepared = prepare(template_for("llama"), model)
    fused = build(prepared, run(model), one_card(model)).graph
    plain = build(prepared, run(model, flash_attn="off"), one_card(model)).graph
    assert ops(fused).count("FLASH_ATTN_EXT") == model.n_layer
    assert "SOFT_MAX" not in ops(fused)
    assert ops(plain).count("SOFT_MAX") == model.n_layer
    assert "FLASH_ATTN_EXT" not in ops(plain)


def test_logits_are_as_many_as_outputs() -> None:
    model = llama()
    graph = build(prepare(template_for("llama"), model), run(model), one_card(model)).graph
    assert graph.tensors[graph.nodes[-1]].ne == (model.n_vocab, 4, 1, 1)


def test_fewer_layers_can_be_built() -> None:
    """Layers left out leave the others as they are: the graph is shorter by a layer's nodes."""
    model = llama()
    prepared = prepare(template_for("llama"), model)
    whole = build(prepared, run(model), one_card(model))
    part = build(prepared, run(model), one_card(model), (0, 1, 3))
    assert len(part.starts) == 4
    assert ops(part.graph) == [
        *ops(whole.graph)[: whole.starts[2]], *ops(whole.graph)[whole.starts[3] :]
    ]  # fmt: skip


def test_an_unknown_tensor_is_outside() -> None:
    odd = Weight(Tensor("blk.0.attn_mystery.weight", (256,), F32), 0)
    model = llama()
    with pytest.raises(OutsideTemplate, match="layer 0 is of no kind"):
        prepare(template_for("llama"), replace(model, weights=(*model.weights, odd)))
    away = Weight(Tensor("mystery.weight", (256,), F32), Home.OUTPUT)
    with pytest.raises(OutsideTemplate, match="has mystery"):
        prepare(template_for("llama"), replace(model, weights=(*model.weights, away)))


def test_a_missing_tensor_is_outside() -> None:
    model = llama()
    with pytest.raises(OutsideTemplate, match="of no kind"):
        prepare(
            template_for("llama"),
            replace(model, weights=tuple(w for w in model.weights if "blk.2.ffn_norm" not in w.tensor.name)),
        )


def with_header(model: Model, **values: object) -> Model:
    """`model` with header values; None takes one away. Dots are written as two underscores."""
    changed = {key.replace("__", "."): value for key, value in values.items()}
    found = {**model.hparams, **changed}
    return replace(model, hparams={key: value for key, value in found.items() if value is not None})


def test_header_values_that_no_trace_had_together_are_outside() -> None:
    template = replace(template_for("llama"), untraced=((".logit_scale=yes", ".residual_scale="),))
    for values in ({}, {"logit_scale": 2.0, "residual_scale": 1.5}, {"logit_scale": 0.0}):
        prepare(template, with_header(llama(), **values))
    with pytest.raises(OutsideTemplate, match="logit_scale = yes with residual_scale = absent: no trace"):
        prepare(template, with_header(llama(), logit_scale=2.0))


def test_a_count_that_the_engine_branches_on_is_outside() -> None:
    template = replace(template_for("llama"), untraced=(("n_layer=4", "n_vocab=1024"),))
    prepare(template, replace(dense(n_layer=5), architecture="llama"))
    prepare(template, replace(dense(n_vocab=1000), architecture="llama"))
    with pytest.raises(OutsideTemplate, match="n_layer = 4 with n_vocab = 1024: no trace had that"):
        prepare(template, llama())


def test_a_model_without_windows_is_outside_where_all_traces_had_some() -> None:
    """The engine then makes another kind of cache, and attention of it in another order."""
    template = template_for("llama")
    layer = template.blocks[1]
    windowed = replace(layer, kinds=(*layer.kinds, *(replace(k, traits=("kv", "swa")) for k in layer.kinds)))
    template = replace(template, blocks=(template.blocks[0], windowed, *template.blocks[2:]))
    prepare(template, replace(dense(window=512, swa_layers=2), architecture="llama"))
    with pytest.raises(OutsideTemplate, match="no layer has a window"):
        prepare(template, llama())
    told = replace(windowed, lines=(replace(windowed.lines[0], guard=(("!window",),)), *windowed.lines[1:]))
    prepare(replace(template, blocks=(template.blocks[0], told, *template.blocks[2:])), llama())


def test_a_single_layer_is_outside() -> None:
    """It is the first and the last: what comes in with either end comes in another order."""
    with pytest.raises(OutsideTemplate, match="a single layer"):
        prepare(template_for("llama"), replace(dense(n_layer=1), architecture="llama"))


def test_values_are_written_as_the_engine_asks_for_them() -> None:
    def value(key: str, x: object) -> str:
        model = with_header(llama(), **{key: x})
        return header_value(model, model.layers[2], key.replace("__", "."))

    assert [value("expert_group_count", x) for x in (None, 0, 1, 8)] == ["", "no", "one", "many"]
    assert [value("logit_scale", x) for x in (None, 0.0, 1.0, 0.5)] == ["", "no", "one", "yes"]
    sections = (None, (0, 0, 0, 0), (16, 0, 8, 0), (16, 8, 0, 0))
    assert [value("rope__dimension_sections", x) for x in sections] == ["", "no", "no", "yes"]
    assert value("swiglu_clamp_exp", (0.0, 0.0, 7.0, 0.0)) == "yes"


@pytest.mark.parametrize("name", architectures())
def test_guards_name_weights_that_are_read(name: str) -> None:
    """A weight that no line reads cannot decide about one: traces that it tells apart differ in another, too."""
    template = template_for(name)
    lines = [line for block in template.blocks for line in block.lines]
    outside = {x.rstrip("?") for line in lines for arg in line.args for x in arg}
    for block in template.blocks:
        read = {x.rstrip("?") for line in block.lines for arg in line.args for x in arg}
        for line in block.lines:
            named = {x for x in literals(line.guard) if x[0] in "@$"}
            assert named <= {*read, *(x for x in outside if x[0] == "$")}, line


@pytest.mark.parametrize("name", architectures())
def test_rotations_carry_their_hint(name: str) -> None:
    """What rotates heads for a quantized cache is marked as the engine marks it (llama-impl.h:71)."""
    for block in template_for(name).blocks:
        for line in block.lines:
            if line.op == "mul_mat" and line.args[0][0].startswith(("attn_inp_k_rot", "attn_inp_v_rot")):
                assert "hadamard" in line.marks or line.label.startswith("indexer"), line


@pytest.mark.parametrize("end", ["first", "last"])
def test_an_end_that_no_trace_had_is_outside(end: str) -> None:
    template = template_for("llama")
    blocks = tuple(replace(b, unseen=(end,)) for b in template.blocks)
    with pytest.raises(OutsideTemplate, match=f"the {end} layer is of a kind"):
        prepare(replace(template, blocks=blocks), llama())


def test_streams_that_no_trace_had_are_outside() -> None:
    """A template of single streams serves slots that share one, and no others."""
    model = llama()
    prepared = prepare(replace(template_for("llama"), one_stream=True), model)
    assert build(prepared, run(model, n_seq_max=2, kv_unified=True), one_card(model)).graph.nodes
    with pytest.raises(OutsideTemplate, match="a stream for each sequence"):
        build(prepared, run(model, n_seq_max=2), one_card(model))


def test_v_rows_of_different_widths_are_outside_without_flash_attention() -> None:
    """They are padded to the widest, and no trace had any."""
    model = llama()
    prepared = prepare(template_for("llama"), replace(model, v_width_max=2 * model.v_width_max))
    assert build(prepared, run(model), one_card(model)).graph.nodes
    with pytest.raises(OutsideTemplate, match="V rows of different widths"):
        build(prepared, run(model, flash_attn="off"), one_card(model))


def test_an_unexplained_condition_is_outside_unless_another_settles_it() -> None:
    model = llama()
    scope = Scope(model, run(model), {}, {})
    assert not holds(parse_guard("!fa & unknown"), scope)
    with pytest.raises(OutsideTemplate, match="no trace explains"):
        holds(parse_guard("fa & unknown"), scope)


def test_a_shape_that_does_not_come_out_even_is_outside() -> None:
    line = Line("x", "reshape", (("y",),), ne=(7, "rest"))
    from vramfit._graphs.build import layout

    with pytest.raises(OutsideTemplate, match="do not fill"):
        layout(line, F32, [shape(8)], dict[str, int]().__getitem__)


# --- what published models have and small ones have not


def experts(**values: object) -> Model:
    """A mixture with 16 experts, 4 of them in use."""
    small = mixture(dense(), 16, 4)
    gate = [Weight(Tensor(f"blk.{il}.ffn_gate_inp.weight", (256, 16), F32), il) for il in range(4)]
    model = replace(small, architecture="llama", weights=(*small.weights, *gate))
    return with_header(model, **values)


def named(model: Model, settings: Run | None = None) -> list[tuple[str, str, tuple[str, ...]]]:
    """Name, operation and names of the sources of each node."""
    prepared = prepare(template_for(model.architecture), model)
    graph = build(prepared, settings or run(model), one_card(model)).graph
    at = graph.tensors
    return [(at[i].name, at[i].op, tuple(at[s].name for s in at[i].src)) for i in graph.nodes]


@pytest.mark.parametrize("which", ["gate", "up", "down"])
def test_experts_are_scaled_by_their_own_scale(which: str) -> None:
    """Without an input scale, too, which no graph reads."""
    model = experts()
    scales = [Weight(Tensor(f"blk.{il}.ffn_{which}_exps.scale", (16,), F32), il) for il in range(4)]
    nodes = named(replace(model, weights=(*model.weights, *scales)))
    scaled = [(op, src) for name, op, src in nodes if name == f"ffn_moe_{which}_scaled"]
    assert scaled == [("MUL", (f"ffn_moe_{which}", "get_rows"))] * 4
    assert len(nodes) == len(named(model)) + 4 * 4


def test_groups_of_experts_are_outside_where_no_trace_had_them() -> None:
    prepare(template_for("llama"), experts(expert_group_count=1))
    with pytest.raises(OutsideTemplate, match="expert_group_count = many"):
        prepare(template_for("llama"), experts(expert_group_count=4, expert_group_used_count=2))


def published(truth: Path, name: str, **values: object) -> Model:
    from vramfit._sources.load import read

    return with_header(read(truth / name), **values)


def test_weights_of_experts_are_normed_before_they_are_scaled(truth: Path) -> None:
    """dots.llm1, Trinity, K-EXAONE: both switches at once."""
    both = published(truth, "arch/dots1-moe.gguf", expert_weights_norm=True, expert_weights_scale=2.5)
    nodes = named(both)
    assert ("ffn_moe_weights_scaled", "SCALE", ("ffn_moe_weights_norm",)) in nodes
    assert any(src[1:] == ("ffn_moe_weights_scaled",) for name, _, src in nodes if name == "ffn_moe_weighted")
    scaled = named(with_header(both, expert_weights_norm=None))
    assert ("ffn_moe_weights_scaled", "SCALE", ("ffn_moe_weights",)) in scaled


def test_experts_are_chosen_in_groups(truth: Path) -> None:
    """The best two of each group decide which groups are used (llama-graph.cpp:2095-2123)."""
    model = published(truth, "arch/dots1-moe.gguf", expert_group_count=2, expert_group_used_count=1)
    graph = build(prepare(template_for("dots1"), model), run(model), one_card(model)).graph
    made = {t.name: t for t in graph.tensors}
    assert made["ffn_moe_groups"].ne[1] == 2
    assert made["ffn_moe_group_topk"].ne[0] == 1
    assert made["ffn_moe_probs_masked"].ne[:2] == (model.n_expert, 4)  # of the last layer's outputs
    assert "ffn_moe_probs_masked" in {graph.tensors[s].name for s in made["ffn_moe_argsort"].src}


def test_positions_are_as_many_as_the_sections_ask_for(truth: Path) -> None:
    """GLM 4 has one position a token unless its header divides RoPE into sections."""
    for sections, each in (((16, 8, 8, 0), 4), ((0, 0, 0, 0), 1), (None, 1)):
        model = published(truth, "arch/glm4-dense.gguf", rope__dimension_sections=sections)
        graph = build(prepare(template_for("glm4"), model), run(model), one_card(model)).graph
        assert next(t for t in graph.tensors if t.name == "inp_pos").ne[0] == 64 * each


def test_keys_come_before_values_where_a_layer_has_a_window(truth: Path) -> None:
    """OLMo 2 has none, OLMo 3 has some."""
    model = published(truth, "arch/olmo2-dense.gguf")
    full = replace(
        model.layers[0], is_swa=False, caches=(replace(model.layers[0].caches[0], cells=Cells.FULL),)
    )
    plain = replace(model, layers=tuple(replace(full, index=i) for i in range(model.n_layer)))
    for one, wanted in ((model, ["Kcur", "Vcur"]), (plain, ["Vcur", "Kcur"])):
        made = [name for name, op, src in named(one) if op == "MUL_MAT" and name in ("Kcur", "Vcur")]
        assert made == wanted * model.n_layer


def test_gate_and_up_may_be_apart(truth: Path) -> None:
    """The converter keeps them apart; the engine's own generator makes one tensor of them."""
    model = published(truth, "arch/deepseek2-moe.gguf")
    apart = []
    for weight in model.weights:
        if "ffn_gate_up_exps" not in weight.tensor.name:
            apart.append(weight)
            continue
        n_embd, n_ff, n_expert = weight.tensor.shape
        for which in ("gate", "up"):
            name = weight.tensor.name.replace("gate_up", which)
            apart.append(replace(weight, tensor=Tensor(name, (n_embd, n_ff // 2, n_expert), F16)))
    assert len(apart) > len(model.weights)
    nodes = named(replace(model, weights=tuple(apart)))
    assert {"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"} == {
        src[0].split(".")[2] for _, op, src in nodes if op == "MUL_MAT_ID"
    }


# --- against graphs that the engine reserved (tests/data/graphs)


@pytest.mark.parametrize("name", NAMES)
def test_templates_give_the_graphs_that_the_engine_reserved(name: str, truth: Path) -> None:
    """Node for node: operation, layout, flags, pins, sources; inputs in the engine's order."""
    from vramfit._devices import Gpu
    from vramfit._llama.placement import place
    from vramfit._sources.load import read

    with gzip.open(Path(__file__).parent / f"data/graphs/{name}.txt.gz", "rt") as f:
        import json

        head = json.loads(f.readline())
    model = read(truth / head["file"])
    if model.architecture not in architectures():
        pytest.skip(f"no template of {model.architecture}")
    settings = Settings(**head["settings"])
    context = resolve(model, settings)
    gpus = [
        Gpu(name=f"gpu{i}", total_bytes=m << 20, free_bytes=m << 20) for i, m in enumerate(head["gpus_mib"])
    ]
    placement = place(model, gpus, settings)
    n_seqs, n_tokens = context.n_seq_max, min(context.n_ctx, context.n_ubatch)
    flash = context.flash_attn
    prompt = Run(
        context, -(-n_tokens // n_seqs) * n_seqs, n_seqs, min(n_tokens, context.n_outputs_max), flash
    )
    step = replace(prompt, n_tokens=n_seqs, n_outputs=n_seqs)
    prepared = prepare(template_for(model.architecture), model)
    for wanted, reserved in zip((prompt, step), trace(name).passes, strict=False):
        same_graph(build(prepared, wanted, placement).graph, reserved.graph)


def same_graph(ours: Graph, engine: Graph) -> None:
    match: dict[int, int] = {}
    inputs, theirs = (
        [i for i in g.leafs if g.tensors[i].usage == COMPUTE and g.tensors[i].home == NONE]
        for g in (ours, engine)
    )
    for i, j in zip(inputs, theirs, strict=True):
        t, e = ours.tensors[i], engine.tensors[j]
        assert (t.type, t.ne, t.flags) == (e.type, e.ne, e.flags)
        match[i] = j
    assert len(ours.nodes) == len(engine.nodes)
    for i, j in zip(ours.nodes, engine.nodes, strict=True):
        t, e = ours.tensors[i], engine.tensors[j]
        match[i] = j
        assert (t.op, t.type, t.ne, t.nb, t.flags, t.pinned) == (e.op, e.type, e.ne, e.nb, e.flags, e.pinned)
        for s, r in zip((*t.src, t.view), (*e.src, e.view), strict=True):
            assert s == NONE == r or match.setdefault(s, r) == r


# --- what no engine builds


@pytest.mark.parametrize("n_head_kv", [0, 5, 64])
@pytest.mark.parametrize("flash_attn", ["on", "off", "auto"])
def test_a_graph_that_ggml_would_stop_at_is_outside_the_template(n_head_kv: int, flash_attn: str) -> None:
    """Heads that do not fit the weights: a bound, never a figure that calls itself exact."""
    model = read(FOLDER.parents[3] / "examples/qwen2.5-14b-instruct-1m-q8_0.gguf")
    odd = replace(model, layers=tuple(replace(x, n_head_kv=n_head_kv) for x in model.layers))
    settings = Settings(n_ctx=4096, flash_attn=flash_attn)
    right, wrong = (estimate(m, [gpu(24576)], settings) for m in (model, odd))
    assert right.gpus[0].compute_exact
    assert not wrong.gpus[0].compute_exact


def test_assertions_of_ggml() -> None:
    def shape(*ne: int) -> Shape:
        a, b, c, d = (*ne, 1, 1, 1)[:4]
        return Shape(F32, (a, b, c, d), (4, 4 * a, 4 * a * b, 4 * a * b * c))

    q, k = shape(64, 7, 8), shape(64, 9, 4)
    assert possible("mul_mat", (k, q), q)
    assert possible("flash_attn_ext", (q, k, k), q)
    for other in (shape(32, 9, 4), shape(64, 9, 3), shape(64, 9, 0)):
        assert not possible("mul_mat", (other, q), q)
        assert not possible("flash_attn_ext", (q, other, other), q)
    assert not possible("flash_attn_ext", (q, k, shape(64, 9, 2)), q)
    assert possible("reshape", (q,), shape(8, 7, 64))
    assert not possible("reshape", (q,), shape(8, 7, 63))
    assert possible("set_rows", (shape(256, 3), shape(3), shape(256, 99)), q)
    assert not possible("set_rows", (shape(255, 3), shape(3), shape(256, 99)), q)
    assert not possible("mul_mat_id", (shape(63, 5, 8), shape(64, 1, 3), shape(2, 3)), q)
