"""Several models in an engine: what is run means what was planned, and nothing foreign gets out of its place."""

from __future__ import annotations

import ast
import shlex
from configparser import RawConfigParser
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu
from test_company import drafting
from test_engines import any_settings

import vramfit
from vramfit import Gpu, Plan, Settings, SettingsError, SharedPlan, Tenant
from vramfit._engines import several_ollama
from vramfit._engines.presets import section
from vramfit._engines.server import Among, arguments, company_flags, device_names, parse_command, rpc_flags
from vramfit._engines.settings import as_run, engine_settings
from vramfit._engines.several import short_names
from vramfit._engines.table import find
from vramfit._llama.flags import find as find_flag
from vramfit._llama.flags import read
from vramfit._planner.plan import plan

MIB = 1 << 20
SMALL = dense(n_layer=4, n_embd=256, n_ff=512, n_ctx_train=4096)


def told(engine: str = "llama-server", **options: Any) -> Settings:
    return engine_settings(engine, {"flash_attn": "on", **options})


def sharing(
    gpus: list[Gpu], *where: tuple[int, ...], engine: str = "llama-server", **options: Any
) -> SharedPlan:
    """A model on each of these sets of cards, each planned as if the others took nothing."""
    models = [replace(SMALL, source=f"model {i}.gguf") for i in range(len(where))]
    tenants = tuple(Tenant(m, told(engine, **options), name=f"m{i}") for i, m in enumerate(models))
    plans = tuple(
        plan(t.model, [gpus[c] for c in at], t.settings, margin_bytes=MIB)
        for t, at in zip(tenants, where, strict=True)
    )
    assert all(p.fits for p in plans)
    loaded = tuple(range(len(plans)))
    return SharedPlan(tenants, plans, where, loaded, "share", 1.0, False, tuple(gpus), margin_bytes=MIB)


THREE = [gpu(600, name="a"), gpu(500, name="b"), gpu(400, name="c")]


def words_of(text: str, name: str) -> list[str]:
    """The words behind llama-server that a section of the presets stands for, as another reader reads it."""
    parser = RawConfigParser(
        delimiters=("=",), comment_prefixes=(";", "#"), inline_comment_prefixes=(";", "#"), strict=True
    )
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text)
    words: list[str] = []
    for key, value in parser[name].items():
        if key == "load-on-startup":
            assert value == "true"
            continue
        found = find_flag(f"--{key}")
        assert found is not None
        flag, _ = found
        if flag.n_values:
            words += [f"--{key}", value]
        else:
            words.append(f"--{key}" if value == "true" else flag.off[-1])
    return words


@given(any_settings)
def test_a_section_read_back_gives_the_same_settings(settings: Settings) -> None:
    """What a preset tells a child means the settings that it was made from, or it cannot be written."""
    words = arguments(settings)
    try:
        text = section("m", words)
    except SettingsError:
        assert any(c in word for word in words for c in ";#") or "" in words
        return
    assert engine_settings("llama-server", read(words_of(text, "m")).given) == as_run(
        settings, "llama-server"
    )


def test_each_model_has_a_server_of_its_own() -> None:
    """Every command reads back as its plan, on its own cards and port; all of them stand in the text."""
    shared = sharing(THREE, (0,), (1, 2), (0, 1, 2))
    lines = shared.commands()
    for line, found in zip(lines, shared.plans, strict=True):
        assert parse_command(line) == as_run(found.settings, "llama-server")
        assert "--fit off" in line
    at = [shlex.split(line) for line in lines]
    assert [w[w.index("-dev") + 1] for w in at[:2]] == ["CUDA0", "CUDA1,CUDA2"]
    assert "-dev" not in at[2]
    assert [w[w.index("--port") + 1] for w in at] == ["8080", "8081", "8082"]
    assert shared.plans[1].tensor_split == tuple(map(int, at[1][at[1].index("-ts") + 1].split(",")))
    text = shared.command()
    assert all(line in text.splitlines() for line in lines)


def test_the_router_is_told_the_same() -> None:
    """The presets have what the commands have, and the router itself nothing that would overrule them."""
    shared = sharing(THREE, (0,), (1, 2))
    text = shared.files()["models.ini"]
    for i, line in enumerate(shared.commands()):
        words = shlex.split(line)[1:]
        words = words[: words.index("--port")]
        found, expected = read(words_of(text, f"m{i}")), read(words)
        assert (found.given, found.model, found.company) == (expected.given, expected.model, expected.company)
        assert engine_settings("llama-server", read(words_of(text, f"m{i}")).given) == parse_command(line)
    assert words_of(text, "m1")[-2:] == ["--device", "CUDA1,CUDA2"]
    assert shared.command(router=True) == "llama-server --models-preset models.ini --models-max 2"
    assert text.count("load-on-startup = true") == 2


def test_what_is_given_twice_becomes_a_list() -> None:
    """A key stands once in a section: patterns of tensors are joined by commas, as the engine takes them."""
    text = section("m", ["-ot", "a=CPU", "-ot", "b=CPU", "--no-kv-offload", "--swa-full"])
    assert text.splitlines() == [
        "[m]",
        "override-tensor = a=CPU,b=CPU",
        "kv-offload = false",
        "swa-full = true",
    ]


@pytest.mark.parametrize("path", ["a;b.gguf", "a #b.gguf", "a.gguf ", "a\nb.gguf", "a\x1b[31m.gguf"])
def test_a_name_that_no_preset_can_hold_is_refused(path: str) -> None:
    """A path that an INI would cut is refused with what to do, not written cut."""
    with pytest.raises(SettingsError, match="no preset can hold it"):
        section("m", ["-m", path])


def test_hostile_names_stay_in_their_place() -> None:
    """Names and paths with quotes, line ends and codes end no line, no word and no section."""
    shared = sharing(THREE, (0,), (1,))
    nasty = 'x\'; $(boom) `y` "z".gguf'
    model = replace(SMALL, source=nasty)
    name = "]; evil = 1 | rm"
    plans = (replace(shared.plans[0], model=model), shared.plans[1])
    tenants = (replace_name(shared.tenants[0], name), shared.tenants[1])
    shared = replace(shared, plans=plans, tenants=tenants)
    assert shlex.split(shared.commands()[0])[1:3] == ["-m", nasty]
    assert [x for x in shared.command().splitlines() if not x.startswith("#")] == list(shared.commands())
    assert short_names(shared)[0] == "evil-1-rm"
    with pytest.raises(SettingsError, match="no preset can hold it"):
        shared.files()


def replace_name(tenant: Tenant, name: str) -> Tenant:
    return Tenant(tenant.model, tenant.settings, tenant.wish, tenant.weight, name)


@given(st.lists(st.text(st.characters(exclude_categories=["C", "Z"]), max_size=12), min_size=1, max_size=6))
def test_short_names_differ_and_are_plain(names: list[str]) -> None:
    """Whatever the models are called, each has a name of its own that INIs, shells, files and Ollama take."""
    shared = sharing(THREE, (0,))
    tenants = tuple(replace_name(shared.tenants[0], n) for n in names)
    found = short_names(replace(shared, tenants=tenants))
    assert len({n.lower() for n in found}) == len(names)
    assert all(
        n.isascii() and n[0].isalnum() and set(n) <= set("._-") | set(filter(str.isalnum, n)) for n in found
    )
    assert "default" not in map(str.lower, found)


def test_cards_are_counted_over_the_machine() -> None:
    """A card of a plan has the name that the engine gives it among all cards, by backend, other machines' apart."""
    gpus = [
        replace(gpu(name="far"), host="mini:50052", remote=True, backend="metal"),
        gpu(name="a"), replace(gpu(name="v"), backend="vulkan"), gpu(name="b"),
    ]  # fmt: skip
    found = plan(SMALL, [gpus[2], gpus[3]], told(), margin_bytes=MIB)
    among = Among(gpus, (2, 3))
    assert device_names(found, (0, 1), among) == "Vulkan0,CUDA1"
    assert device_names(found, (0, 1)) == "Vulkan0,CUDA0"
    assert rpc_flags(found, among) == []
    far = plan(SMALL, [gpus[0], gpus[3]], told(), margin_bytes=MIB)
    assert rpc_flags(far, Among(gpus, (0, 3))) == ["--rpc", "mini:50052"]
    assert device_names(far, (0, 1), Among(gpus, (0, 3))) == "RPC0,CUDA1"


def test_what_is_loaded_beside_a_model_goes_where_it_goes() -> None:
    """A draft's cards are counted over the machine, as the model's; without cards a projector stays on the host, too."""
    made = plan(
        drafting(devices=(1,)), THREE[1:], told(spec_type="draft-simple", n_ctx=512), margin_bytes=MIB
    )
    flags = company_flags(made, Among(THREE, (1, 2)))
    assert flags[flags.index("-devd") + 1] == "CUDA2"
    assert company_flags(made)[flags.index("-devd") + 1] == "CUDA1"
    seeing = vramfit.read("examples/gemma-3-12b-q4_k_m.gguf")
    seeing = vramfit.accompany(seeing, mmproj="examples/beside/mmproj-gemma-3-12b-f16.gguf")
    on_host = plan(seeing, (), told(n_ctx=512))
    assert "--no-mmproj-offload" in company_flags(on_host, Among(THREE, ()))
    assert "--no-mmproj-offload" not in company_flags(on_host)


def test_one_ollama_server_for_all() -> None:
    """One environment, as many models as were planned; each Modelfile has its own context, layers and card."""
    shared = sharing(THREE[:2], (0,), (1,), engine="ollama", type_k="q8_0", type_v="q8_0")
    text = shared.command("ollama").splitlines()
    assert text[0].endswith("ollama serve")
    variables = dict(word.split("=", 1) for word in shlex.split(text[0])[:-2])
    assert variables == {
        "OLLAMA_CONTEXT_LENGTH": "4096", "OLLAMA_NUM_PARALLEL": "1", "OLLAMA_FLASH_ATTENTION": "1",
        "OLLAMA_KV_CACHE_TYPE": "q8_0", "OLLAMA_MAX_LOADED_MODELS": "2", "OLLAMA_KEEP_ALIVE": "-1",
    }  # fmt: skip
    assert text[1:3] == ["ollama create m0 -f m0.Modelfile", "ollama create m1 -f m1.Modelfile"]
    assert list(shared.commands("ollama")) == text[3:]
    for i, (name, file) in enumerate(shared.files("ollama").items()):
        assert name == f"m{i}.Modelfile"
        lines = file.splitlines()
        assert f"FROM ./model {i}.gguf" in lines
        assert {"PARAMETER num_ctx 4096", "PARAMETER num_gpu 5", f"PARAMETER main_gpu {i}"} <= set(lines)
        assert "# server: OLLAMA_MAX_LOADED_MODELS=2" in lines


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        ({"type_k": "q8_0", "type_v": "q8_0"}, {}, "OLLAMA_KV_CACHE_TYPE"),
        ({"n_seq_max": 2}, {}, "OLLAMA_NUM_PARALLEL"),
        ({"swa_full": True}, {}, "LLAMA_ARG_SWA_FULL"),
    ],
)
def test_one_variable_cannot_be_two(first: dict[str, Any], second: dict[str, Any], name: str) -> None:
    """Where two models need different values of what holds for the whole server, it is refused and says what follows."""
    one, two = (sharing(THREE[:1], (0,), engine="ollama", **o) for o in (first, second))
    both = joined(one, two)
    with pytest.raises(SettingsError, match=name):
        both.command("ollama")
    assert len(both.commands("llama-server")) == 2


def joined(one: SharedPlan, two: SharedPlan) -> SharedPlan:
    other = replace(two.tenants[0].model, source="other.gguf")
    tenant = Tenant(other, two.tenants[0].settings, name="other")
    made = replace(two.plans[0], model=other)
    return replace(
        one,
        tenants=(*one.tenants, tenant),
        plans=(*one.plans, made),
        cards=(*one.cards, two.cards[0]),
        loaded=(0, 1),
    )


def test_older_ollama_is_told_as_well() -> None:
    """Before 0.30 the same words; when it evicts is not replayed."""
    shared = sharing(THREE[:1], (0,), engine="ollama-before-0.30")
    text = shared.command("ollama-before-0.30")
    assert "OLLAMA_MAX_LOADED_MODELS=1" in text
    assert "#" not in text


def test_models_of_one_slot_mind_no_slots() -> None:
    """Where Ollama gives a model one slot whatever it is told, another may have more."""
    one = sharing(THREE[:1], (0,), engine="ollama", n_seq_max=2)
    two = sharing(THREE[:1], (0,), engine="ollama")
    model = replace(two.tenants[0].model, architecture="qwen3next", source="other.gguf")
    two = replace(
        two, plans=(replace(two.plans[0], model=model),), tenants=(Tenant(model, two.plans[0].settings),)
    )
    both = joined(one, two)
    assert several_ollama.environment(both, find("ollama"))["OLLAMA_NUM_PARALLEL"] == "2"


def test_one_file_is_loaded_once_in_ollama() -> None:
    """Two models of one file are refused: Ollama would load the one in place of the other."""
    one, two = sharing(THREE[:1], (0,), engine="ollama"), sharing(THREE[:1], (0,), engine="ollama")
    both = replace(
        one, tenants=one.tenants * 2, plans=(*one.plans, *two.plans), cards=((0,), (0,)), loaded=(0, 1)
    )
    with pytest.raises(SettingsError, match="are one file"):
        both.command("ollama")


def test_a_split_over_some_cards_is_told_over_all() -> None:
    """Ollama's server sees all cards: a split over two of three has a zero for the third."""
    wide = several_ollama.widened(sharing(THREE, (1, 2), engine="ollama", tensor_split=(1, 1)), 0)
    assert wide.tensor_split[0] == 0
    assert wide.settings.tensor_split == tuple(map(float, wide.tensor_split))
    text = sharing(THREE, (1, 2), engine="ollama", tensor_split=(1, 1)).command("ollama")
    assert "LLAMA_ARG_TENSOR_SPLIT=0," in text
    assert "OLLAMA_SCHED_SPREAD=1" in text


def test_llama_cpp_python_hides_the_other_cards() -> None:
    """Each source is a program of its own, which sees the cards of its plan alone, or says that it cannot."""
    shared = sharing(THREE, (1,), (0, 1, 2), engine="llama-cpp-python")
    one, two = shared.commands("llama-cpp-python")
    assert 'os.environ["CUDA_VISIBLE_DEVICES"] = "1"' in one
    assert "environ" not in two
    assert one.index("environ") < one.index("llama_cpp")
    for text in (one, two, shared.command("llama-cpp-python")):
        ast.parse(text)
    cards = [replace(g, backend="sycl", compute_capability=None) for g in THREE]
    with pytest.raises(SettingsError, match="which sycl devices"):
        sharing(cards, (1,), engine="llama-cpp-python").command("llama-cpp-python")


def test_lm_studio_takes_all_cards_or_none() -> None:
    """It divides each model evenly over all cards: what was planned otherwise is refused."""
    even = [gpu(600, name="a")]
    assert "lms load" in sharing(even, (0,), engine="lm-studio").command("lm-studio")
    with pytest.raises(SettingsError, match="leave out a card"):
        sharing(THREE, (0,), engine="lm-studio").command("lm-studio")
    assert sharing(even, (0,), engine="lm-studio").files("lm-studio") == {}


def test_what_does_not_fit_is_said() -> None:
    """A model that is not loaded has no command, and a line says so; another engine has no router."""
    shared = replace(sharing(THREE, (0,), (1,)), loaded=(1,))
    assert shared.command().splitlines()[0] == "# does not fit beside the others: m0"
    assert len(shared.commands()) == 1
    assert "[m0]" not in shared.files()["models.ini"]
    assert "--models-max 1" in shared.command(router=True)
    assert replace(shared, loaded=()).files() == {}
    with pytest.raises(SettingsError, match="no router"):
        shared.command("ollama", router=True)


def test_an_embedder_is_asked_as_one() -> None:
    """Ollama loads an embedding model by another request than one that writes."""
    shared = sharing(THREE[:1], (0,), engine="ollama", embeddings=True)
    assert "/api/embed " in shared.commands("ollama")[0]


def test_the_library_has_them() -> None:
    """`vramfit.plan` of several models hands out what to run."""
    models = (replace(SMALL, source="a.gguf"), replace(SMALL, source="b.gguf"))
    found = vramfit.plan(models, [gpu(4096)], told(), margin_bytes=MIB)
    assert isinstance(found.plans[0], Plan)
    assert len(found.commands()) == 2
