"""Cards of several machines: how they are named and ordered, what is said of them, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import ROOT, examples
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu

import vramfit
from vramfit._base.errors import EngineRefusal, GpuError, SettingsError
from vramfit._cli.main import main
from vramfit._devices import Gpu, machines, parse_gpus, told_apart
from vramfit._devices.machines import link_speed
from vramfit._engines.choose import plan_for
from vramfit._estimate.estimate import estimate
from vramfit._ggml.backends import BACKENDS, backend, host_of, over_rpc
from vramfit._ggml.graph import Tensor, contiguous
from vramfit._ggml.sched import _check_servers, _foreign_memory
from vramfit._ggml.types import BY_NAME
from vramfit._llama.params import Settings
from vramfit._llama.placement import place
from vramfit._planner.link import chain_bytes, chain_seconds, link
from vramfit._planner.nearer import nearer
from vramfit._planner.plan import plan
from vramfit._planner.search import Chains
from vramfit._planner.segments import Segments
from vramfit._planner.speed import decode_limit
from vramfit._report.html import page
from vramfit._report.machines import machine_rows, network_sentence, server_commands
from vramfit._report.schema import PlanJson

MODEL = vramfit.read(ROOT / "examples/qwen2.5-14b-instruct-1m-q8_0.gguf")
SHORT = vramfit.server_settings(flash_attn="on", n_ctx=32768)
F32 = BY_NAME["f32"]


def far(host: str = "mini", mib: int = 8192, **others: Any) -> Gpu:
    """A card behind an rpc-server."""
    return replace(gpu(mib), host=host, remote=True, **others)


# --- names


@pytest.mark.parametrize(
    ("spec", "main", "expected"),
    [
        ("tower/3090ti,tower/3060-12gb,mini/m2-ultra-192gb", None, ["mini:50052", "", ""]),
        ("tower/3090ti,mini/m2-ultra-192gb,tower/3060-12gb", "mini", ["tower:50052", "tower:50052", ""]),
        ("tower/3090ti,mini/3060-12gb", "none", ["tower:50052", "mini:50052"]),
        ("3090ti, 10.0.0.7:6000/2x3060-12gb", None, ["10.0.0.7:6000", "10.0.0.7:6000", ""]),
        ("b/3090,3060-12gb,a/3090,b/4090", None, ["b:50052", "b:50052", "a:50052", ""]),
        ("MINI/3090,mini/4090", None, ["", ""]),
        ("3090,nas/cpu:64GiB", None, ["nas:50052", ""]),
        ("Instinct MI50/MI60 32GB", None, [""]),
    ],
)
def test_cards_of_other_machines_come_first(spec: str, main: str | None, expected: list[str]) -> None:
    """Server by server in the order in which they were named, as the engine lists them (llama.cpp:275)."""
    assert [g.endpoint for g in parse_gpus(spec, main=main)] == expected


@pytest.mark.parametrize(
    ("spec", "others", "said"),
    [
        ("tower/3090,mini/4090", {"main": "min"}, "did you mean mini"),
        ("tower/3090,mini/4090", {"main": "desk"}, "there are tower, mini"),
        ("none", {"main": "mini"}, "there are no machines"),
        ("tower/3090", {"main": " "}, "give the name of a machine"),
        ("3090,mini/4090", {"main": "mini"}, "leave main out"),
        ("2xmini/3090", {}, "mini/2x3090"),
        ("mini/", {}, "names no card"),
        ("mini/none", {}, "cannot be combined"),
        ("mini/cpu", {}, "cpu:64GiB"),
        ("/3090", {}, "is no machine"),
        ("a b/3090", {}, "is no machine"),
        ("a:70000/3090", {}, "is no machine"),
        ("fe80::1/3090", {}, "is no machine"),
        ("x\x1b[31m/3090", {}, "is no machine"),
        ("tower/3090,mini/m2-ultra-192gb,mini/m2-ultra-192gb", {}, "named twice"),
        ("3090,mini/3090", {"link": "fast"}, "1Gbit/s"),
        ("3090,mini/3090", {"link": "0Gbit/s"}, "1Gbit/s"),
        ("3090,mini/3090", {"link": -1}, "1Gbit/s"),
        ("3090,mini/3090", {"link": 10**400}, "1Gbit/s"),
        ("3090,mini/3090", {"link": "999999GB/s"}, "1Gbit/s"),
        ("17xmini/3090", {}, "write the number behind"),
        (",".join(f"h{i}/3090" for i in range(17)), {}, "at most 16"),
    ],
)
def test_what_names_no_card_of_a_machine_is_an_error(spec: str, others: dict[str, Any], said: str) -> None:
    """It says what to write instead."""
    with pytest.raises(GpuError, match=said) as e:
        parse_gpus(spec, **others)
    assert str(e.value).isprintable()


@given(st.text(max_size=30), st.text(max_size=10), st.one_of(st.none(), st.text(max_size=8)))
def test_no_words_escape_as_anything_else(spec: str, host: str, main: str | None) -> None:
    """Cards, or our own error, whatever is typed."""
    for words in (spec, f"{host}/{spec}", f"{host}/3090,mini/3060"):
        try:
            found = parse_gpus(words, main=main)
        except GpuError:
            continue
        assert all(bool(g.endpoint) == g.remote for g in found)


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"remote": True}, "host is empty"),
        ({"host": "a b"}, "NAME or NAME:PORT"),
        ({"host": 3}, "NAME or NAME:PORT"),
        ({"remote": 1, "host": "mini"}, "True or False"),
        ({"link_gbits": 0}, "Gbit/s, or None"),
        ({"link_gbits": True}, "Gbit/s, or None"),
        ({"link_gbits": 10**400}, "Gbit/s, or None"),
    ],
)
def test_a_card_that_is_nowhere_is_an_error(others: dict[str, Any], said: str) -> None:
    """As every field of a card is checked."""
    with pytest.raises(GpuError, match=said):
        replace(gpu(), **others)


def test_a_machine_cannot_be_near_and_far() -> None:
    """Where cards are given as `Gpu`s, a name stands for one machine."""
    with pytest.raises(GpuError, match="an rpc-server as well"):
        vramfit.estimate(dense(), [far(), replace(gpu(), host="mini")], Settings(n_ctx=512))


def test_cards_given_in_another_order_are_planned_in_the_engines() -> None:
    """Whatever the order of a list, the servers' come first."""
    near, server = gpu(name="near"), far()
    asked = Settings(n_ctx=512, tensor_split=(3, 2))
    assert [g.layers for g in estimate(dense(), [near, server], asked).gpus] == [3, 2]
    assert [g.name for g in estimate(dense(), [near, server], asked).gpus] == ["mini/card", "near"]


def test_cards_read_again_stay_where_they_are() -> None:
    """What `parse_gpus` made it takes as it is; `main` moves the engine to another machine."""
    cards = parse_gpus("tower/3090ti,mini/3060-12gb")
    assert parse_gpus(cards) == cards == parse_gpus([*cards[:1], "tower/3090ti"])
    assert [(g.host, g.remote) for g in parse_gpus(cards, main="mini")] == [("tower", True), ("mini", False)]
    assert [g.remote for g in parse_gpus([far(), "tower/3090", "3090"])] == [True, True, False]
    assert all(g.remote for g in parse_gpus([far()]))


def test_names_tell_machines_apart() -> None:
    """The machine comes first, and a number where it has several of one model; alone, a machine is not named."""
    assert told_apart([far(), far(), gpu()]) == ("mini/card #1", "mini/card #2", "card")
    assert told_apart([replace(gpu(), host="tower")]) == ("card",)
    assert machines([gpu()]) == ()
    assert [(m.name, m.gpus) for m in machines([far(), gpu()])] == [("mini", (0,)), ("this machine", (1,))]


@pytest.mark.parametrize(
    ("text", "gbits"),
    [("1Gbit/s", 1), ("10GbE", 10), ("2.5Gb/s", 2.5), ("100Mbps", 0.1), ("1.25GB/s", 10), (40, 40)],
)
def test_speeds_are_read_as_people_write_them(text: str | float, gbits: float) -> None:
    """GB are bytes, Gb and Gbit bits."""
    assert link_speed(text) == pytest.approx(gbits)
    assert parse_gpus("3090,mini/3090", link=text)[0].link_gbits == pytest.approx(gbits)


# --- rules


def test_a_server_is_seen_without_what_the_engine_does_not_ask() -> None:
    """Every backend: sizes stay, whatever else is known of the card does not come through."""
    for rules in BACKENDS.values():
        seen = over_rpc(rules)
        assert seen is over_rpc(rules)
        assert (seen.alignment, seen.max_buffer, seen.row_padding) == (
            rules.alignment,
            rules.max_buffer,
            rules.row_padding,
        )
        assert seen.behind is rules
        assert seen.async_events
        lost = (seen.host_buffer, seen.graph_optimize, seen.offload_batch, seen.own_memory_only)
        assert not any(lost)
        assert seen.supports_op(node("NO_SUCH_OP"), [])
        assert seen.exact == rules.exact


def node(op: str) -> Tensor:
    return Tensor("", op, F32, (1, 1, 1, 1), contiguous(F32, (1, 1, 1, 1)))


def test_only_cuda_cards_care_whose_memory_a_source_is_in() -> None:
    """What lies behind a server may be copied to any card; what lies on a card of CUDA, to no other one as it is."""
    cuda, cpu = backend("cuda", "8.6"), backend("cpu")
    tensors = [replace(node("NONE"), home=0), replace(node("NONE"), home=1), node("ADD")]
    tensors[2].src = (0,)
    assert _foreign_memory([2], tensors, (over_rpc(cuda), cuda, cuda, cpu)) == {}
    tensors[2].src = (1,)
    assert _foreign_memory([2], tensors, (over_rpc(cuda), cuda, cuda, cpu)) == {2: {2}}


def test_what_a_server_cannot_run_is_refused() -> None:
    """The engine would place it there and the server abort; without servers nothing is asked."""
    cuda, cpu = backend("cuda", "8.6"), backend("cpu")
    with pytest.raises(EngineRefusal, match="cuda does not run NO_SUCH_OP"):
        _check_servers([0], [node("NO_SUCH_OP")], [0], (over_rpc(cuda), cpu))
    _check_servers([0], [node("NO_SUCH_OP")], [0], (cuda, cpu))


def test_weights_are_pinned_by_the_first_card_that_can() -> None:
    """A server pins nothing; the compute buffer of the host follows the first device alone."""
    vulkan = backend("vulkan", None, 16, 64)
    rules = [over_rpc(backend("cuda")), vulkan]
    assert host_of(rules).name == "cpu"
    assert host_of(rules, of_weights=True) is (vulkan.pinned or host_of([]))


# --- the network


def test_nothing_crosses_within_a_machine() -> None:
    """No link, no seconds."""
    model = dense()
    cards = [gpu(), gpu()]
    assert link(model, cards, Settings(n_ctx=512), place(model, cards, Settings())) is None
    assert chain_seconds(model, place(model, cards, Settings()), cards) == 0


@examples(20)
@given(
    st.lists(st.sampled_from(["", "a", "b"]), min_size=1, max_size=4),
    st.floats(0.1, 100),
    st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
def test_the_network_only_slows_down(hosts: list[str], gbits: float, shares: list[int]) -> None:
    """The bound with machines is that without, and the seconds of the chain more; the chain is within what crosses."""
    hosts = sorted(hosts, reverse=True)
    model = MODEL
    cards = [
        far(h, 65536, link_gbits=gbits, bandwidth_gbs=500.0)
        if h
        else replace(gpu(65536), bandwidth_gbs=500.0)
        for h in hosts
    ]
    asked = Settings(n_ctx=512, tensor_split=tuple(map(float, shares[: len(hosts)])))
    placement = place(model, cards, asked)
    near = [replace(c, host="", remote=False) for c in cards]
    slow, fast = (decode_limit(model, placement, on) for on in (cards, near))
    assert slow is not None
    assert fast is not None
    seconds = chain_seconds(model, placement, cards)
    assert 1 / slow == pytest.approx(1 / fast + seconds)
    assert seconds == pytest.approx(sum(chain_bytes(model, placement, cards)) * 8 / gbits / 1e9)
    found = link(model, cards, asked, placement)
    assert (found is None) == (not any(hosts))
    if found:
        assert sum(c.total for c in found.token) >= sum(chain_bytes(model, placement, cards))
        assert found.seconds == seconds


def test_a_model_without_a_graph_has_no_figure() -> None:
    """What crosses is then said to be unknown; the chain is not."""
    cards = [far(), gpu()]
    found = plan(dense(), cards, Settings(n_ctx=512, tensor_split=(1, 1)))
    assert found.link() is None
    assert "not known" in network_sentence(found)
    assert machine_rows(found)[1][3:] == ["", "", "", ""]


# --- plans


@pytest.fixture(scope="module")
def spread() -> vramfit.Plan:
    """A plan over two machines that needs both."""
    cards = parse_gpus("tower/3060-12gb,mini/3090ti", link="10GbE")
    return plan(MODEL, cards, SHORT)


def test_a_plan_says_which_machine_holds_what(spread: vramfit.Plan) -> None:
    """Text, JSON and HTML: bytes a machine, bytes a token, the lines to run."""
    assert spread.fits
    assert [m.name for m in spread.link().machines] == ["mini", "tower"]  # type: ignore[union-attr]
    text, html = str(spread), page(spread)
    for part in ("ggml-rpc-server -H 0.0.0.0 -p 50052 -d CUDA0", "10 Gbit/s", "network 0.0328 ms"):
        assert part in text
        assert part in html
    assert spread.command().startswith("llama-server -m ")
    assert " --rpc mini:50052 " in spread.command()
    found = PlanJson(**spread.to_dict())
    mini, tower = found.machines
    assert (mini.endpoint, mini.link_gbits, mini.link_assumed) == ("mini:50052", 10, False)
    assert mini.total == spread.estimate.gpus[0].total
    assert tower.host == spread.estimate.host.total
    assert (tower.command, tower.token) == ("", None)
    assert mini.token is not None
    assert mini.batch is not None
    assert mini.batch.received > mini.token.received > MODEL.n_embd * 4
    assert found.link_seconds == pytest.approx(2 * MODEL.n_embd * 4 * 8 / 10e9)


def test_what_fits_near_stays_near() -> None:
    """Of the splits that hold a context, one with little behind the network: next to nothing where one card holds it."""
    cards = parse_gpus("3090ti,mini/4090")
    found = plan(MODEL, cards, vramfit.server_settings(flash_attn="on", n_ctx=4096))
    assert [g.layers for g in found.estimate.gpus] == [0, MODEL.n_layer + 1]
    forced = plan(MODEL, cards, vramfit.server_settings(n_ctx=4096, tensor_split=[1, 0]))
    assert [g.layers for g in forced.estimate.gpus] == [MODEL.n_layer + 1, 0]


def test_a_larger_context_takes_what_it_needs_of_other_machines(spread: vramfit.Plan) -> None:
    """No more than a 64th of the room there over what is needed."""
    cards = spread.gpus
    chains = Chains(
        Segments(MODEL, cards, replace(spread.settings, n_ctx=0, tensor_split=())),
        [g.free - (1 << 30) for g in cards],
    )
    split = nearer(chains, [True, False], 32768, (MODEL.n_layer + 1, 0))
    assert split == spread.tensor_split
    assert 0 < split[0] < MODEL.n_layer + 1
    assert nearer(chains, [True, True], 32768, (49, 0)) == (49, 0)


@pytest.mark.parametrize("engine", ["ollama", "lm-studio", "llama-cpp-python"])
def test_only_llama_server_reaches_other_machines(spread: vramfit.Plan, engine: str) -> None:
    """Others are refused before they are planned for, and cannot be told such a plan."""
    with pytest.raises(SettingsError, match="its own machine alone"):
        plan_for(MODEL, spread.gpus, {}, engine)
    with pytest.raises(SettingsError, match="its own machine alone"):
        spread.command(engine)


def test_every_server_has_a_line_to_start_it() -> None:
    """On its port, bound to its address where that is one, with the devices as its backend names them."""
    cards = parse_gpus(
        "3090ti,10.0.0.7:6000/2x3060-12gb,10.0.0.7:6000/cpu:8GiB,m/m2-ultra-192gb,x/rx 7900 xtx"
    )
    assert server_commands(cards) == [
        ("10.0.0.7:6000", "ggml-rpc-server -H 10.0.0.7 -p 6000 -d CUDA0,CUDA1,CPU"),
        ("m", "ggml-rpc-server -H 0.0.0.0 -p 50052 -d MTL0"),
        (
            "x",
            f"ggml-rpc-server -H 0.0.0.0 -p 50052 -d {'ROCm' if cards[-2].backend == 'hip' else 'Vulkan'}0",
        ),
    ]


def test_what_is_not_proved_of_a_server_says_so() -> None:
    """The backend behind it is named."""
    found = estimate(MODEL, "3090ti,mini/m2-ultra-192gb", replace(SHORT, tensor_split=(1.0, 1.0)))
    assert not found.exact
    assert "metal over RPC" in found.compute_note


def test_the_commands_take_machines() -> None:
    """`--main` and `--link` reach the cards; without cards that are named they mean nothing."""
    path = str(ROOT / "examples/qwen2.5-14b-instruct-1m-q8_0.gguf")
    words = ["plan", path, "--gpus", "a/3060-12gb,b/3090ti", "-c", "8192", "--json"]
    done = CliRunner().invoke(main, [*words, "--main", "b", "--link", "2.5Gbit/s"])
    first, last = json.loads(done.output)["machines"]
    assert (first["name"], first["link_gbits"], last["name"]) == ("a", 2.5, "b")
    for wrong, said in ((["--main", "c"], "no card is in that machine"), (["--link", "quick"], "1Gbit/s")):
        done = CliRunner().invoke(main, [*words, *wrong])
        assert done.exit_code == 1
        assert said in done.output
    done = CliRunner().invoke(main, ["plan", path, "--link", "1Gbit/s"])
    assert done.exit_code == 1
    assert "name the cards of each machine" in done.output


# --- split modes


@pytest.mark.parametrize(("mode", "why"), [("row", "split buffers"), ("tensor", "ggml-backend-meta")])
def test_split_modes_without_a_plan_are_refused_with_the_reason(mode: str, why: str) -> None:
    """In a setting and as a flag, before anything is read."""
    with pytest.raises(SettingsError, match=why):
        Settings(split_mode=mode)
    done = CliRunner().invoke(main, ["plan", "no such file", "--gpus", "2x3090", "-sm", mode])
    assert done.exit_code == 2
    assert why in done.output.replace("\n", "")


def test_the_network_is_a_term_of_the_speed() -> None:
    """What another machine holds makes a plan slower: a token waits for the network, and so does a batch."""
    model = vramfit.read(ROOT / "examples" / "qwen2.5-14b-instruct-1m-q8_0.gguf")
    far, slow, near = (
        vramfit.speed(vramfit.plan(model, vramfit.parse_gpus(spec, link=link), {"n_ctx": 8192}))
        for spec, link in (
            ("mini/3060-12gb,3060-12gb", "1Gbit/s"),
            ("mini/3060-12gb,3060-12gb", "100Mbit/s"),
            ("2x3060-12gb", None),
        )
    )
    assert [t.name for t in far.links] == ["network"]
    assert near.links == ()
    assert (far.decode or 0) < (near.decode or 0)
    assert slow.links[0].token_seconds == pytest.approx(10 * far.links[0].token_seconds)
    assert (slow.prompt or 0) < (far.prompt or 0)
