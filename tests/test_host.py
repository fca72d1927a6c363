"""The host is part of the plan: what it needs is judged as a card's is, and memory that is one is counted once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import ROOT, examples
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu, mixture

import vramfit
from vramfit._base.errors import GpuError
from vramfit._cli.main import main
from vramfit._devices import Gpu, Host, host_detection, parse_gpus, parse_host
from vramfit._devices.ask import Answer
from vramfit._devices.host_detection import detect_host, parse_cpuinfo, parse_sysctl
from vramfit._devices.host_memory import HostMemory
from vramfit._estimate.estimate import estimate
from vramfit._llama.model import Model
from vramfit._llama.params import Settings
from vramfit._planner.host import lent_sentence
from vramfit._planner.plan import Plan, plan
from vramfit._planner.whatif import best, trades
from vramfit._planner.which import which
from vramfit._report.html import fragment
from vramfit._report.plans import plan_text
from vramfit._report.safety import notes

MIB, GIB = 1 << 20, 1 << 30
MARGIN = 4 * MIB
MODEL = dense(5, n_embd=512, n_ff=1024, n_vocab=4096, n_head=8, n_head_kv=4, n_ctx_train=1 << 15)
TIED = dense(4, tied=True, weight_type="q8_0", n_ctx_train=1 << 14)
EXPERTS = mixture(dense(6, n_embd=256, n_ff=512, weight_type="q8_0", n_ctx_train=8192), 32)
SETTINGS = Settings(flash_attn="on", n_outputs_max=1, n_ubatch=64, n_batch=256)
FILE = ROOT / "examples" / "qwen2.5-14b-instruct-1m-q8_0.gguf"


def mac(mib: int) -> Gpu:
    """A Mac whose GPU may take so much."""
    return Gpu(name="mac", total_bytes=mib * MIB, backend="metal", unified=True)


def jetson(mib: int) -> Gpu:
    """A chip of CUDA that shares the system's memory."""
    return replace(gpu(mib, name="jetson"), unified=True)


# --- what a person says


@pytest.mark.parametrize(
    ("words", "host"),
    [
        ("64GiB", Host(64 * GIB)),
        ("64 gb", Host(64 * GIB)),
        ("65536", Host(64 * GIB)),
        ("1.5TiB", Host(1536 * GIB)),
        ("64GiB:58GiB", Host(64 * GIB, 58 * GIB)),
        ("32GiB,i8mm", Host(32 * GIB, features=("neon", "i8mm"))),
        ("32GiB,amx", Host(32 * GIB, features=("avx2", "avx512", "amx"))),
        ("32GiB, AVX2,avx512", Host(32 * GIB, features=("avx2", "avx512"))),
    ],
)
def test_words(words: str, host: Host) -> None:
    assert parse_host(words) == host
    assert host.free <= host.total_bytes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "is not a size"),
        ("auto", "detect_host"),
        ("lots", "'lots' is not a size; give one such as 64GiB"),
        ("64", "64 MiB, or GiB?"),
        ("1.5", "Give a unit"),
        ("0GiB", "leave out --host"),
        ("16GiB:32GiB", "more is free than there is"),
        ("16GiB,avx3", "no feature 'avx3'; give some of avx2"),
        ("٣GiB", "is not a size"),
    ],
)
def test_wrong_words_say_what_to_do(words: str, message: str) -> None:
    with pytest.raises(GpuError, match=message):
        parse_host(words)


@pytest.mark.parametrize(
    "values",
    [
        {"total_bytes": 0},
        {"total_bytes": 1.5},
        {"total_bytes": GIB, "free_bytes": 2 * GIB},
        {"total_bytes": GIB, "features": "avx2"},
        {"total_bytes": GIB, "features": ["mmx"]},
    ],
)
def test_values_that_no_machine_has(values: dict[str, object]) -> None:
    with pytest.raises(GpuError, match="host: "):
        Host(**values)  # type: ignore[arg-type]


# --- the host beside cards


def test_without_a_host_nothing_is_judged() -> None:
    found = plan(MODEL, [gpu(200)], SETTINGS, margin_bytes=MARGIN)
    assert found.host is None
    assert not found.estimate.host.is_judged
    assert found.estimate.host.free_bytes == 0


def judged(found: Plan) -> bool:
    """Whether every memory that is known has its margin left."""
    return all(
        d.left >= found.margin_bytes for d in (*found.estimate.gpus, found.estimate.host) if d.is_judged
    )


@examples(30, deadline=10_000)
@given(
    host=st.integers(6, 80),
    cards=st.lists(st.integers(40, 160), max_size=2),
    layers=st.sampled_from([-1, 3]),
    offload=st.booleans(),
    shared=st.booleans(),
)
def test_a_plan_leaves_the_margin_everywhere_and_256_tokens_more_do_not(
    host: int, cards: list[int], layers: int, offload: bool, shared: bool
) -> None:
    """What fits leaves the margin on every card and on the host; what does not, lacks it; a step more is not carried."""
    gpus = [jetson(n) if shared else gpu(n, name=f"card {i}") for i, n in enumerate(cards)]
    settings = replace(SETTINGS, n_gpu_layers=layers, offload_kqv=offload)
    memory = None if shared and gpus else host * MIB
    found = plan(MODEL, gpus, settings, margin_bytes=MARGIN, host=memory)
    assert judged(found) is found.fits
    assert (found.shortfall > 0) is not found.fits
    more = found.n_ctx + 256
    if found.fits and more <= MODEL.n_ctx_train:
        further = plan(MODEL, gpus, replace(settings, n_ctx=more), margin_bytes=MARGIN, host=memory)
        assert not further.fits


def test_a_host_with_room_changes_nothing() -> None:
    """A plan that fits into its host is the one without it, but for what is left there."""
    gpus = [gpu(120, name="a"), gpu(100, name="b")]
    free, limited = (plan(MODEL, gpus, SETTINGS, margin_bytes=MARGIN, host=host) for host in (None, "64GiB"))
    assert (limited.n_ctx, limited.tensor_split, limited.limited_by) == (
        free.n_ctx,
        free.tensor_split,
        free.limited_by,
    )
    assert limited.estimate.gpus == free.estimate.gpus
    assert limited.estimate.host.left == 64 * GIB - free.estimate.host.total


def test_the_host_alone_gets_the_largest_context_that_fits() -> None:
    found = plan(MODEL, "none", SETTINGS, margin_bytes=MARGIN, host=64 * MIB)
    assert found.fits
    assert 256 <= found.n_ctx < MODEL.n_ctx_train
    assert found.limited_by == "host"
    assert found.estimate.host.left >= MARGIN
    assert plan(MODEL, "none", SETTINGS, margin_bytes=MARGIN).n_ctx == MODEL.n_ctx_train


def test_the_host_limits_a_cache_that_lies_there() -> None:
    """Beside a card with room, too, it is the host that the next context would overfill."""
    found = plan(MODEL, [gpu(400)], replace(SETTINGS, offload_kqv=False), margin_bytes=MARGIN, host=64 * MIB)
    assert found.fits
    assert found.n_ctx < MODEL.n_ctx_train
    assert found.limited_by == "host"
    card = plan(MODEL, [gpu(100)], SETTINGS, margin_bytes=MARGIN, host="1GiB")
    assert card.fits
    assert card.limited_by == "card"


def test_what_does_not_fit_says_by_how_much_and_what_helps() -> None:
    gpus, settings = [gpu(400)], replace(SETTINGS, n_gpu_layers=2, n_ctx=8192)
    found = plan(MODEL, gpus, settings, margin_bytes=MARGIN, host=16 * MIB)
    assert (found.fits, found.limited_by) == (False, "host")
    assert found.shortfall == MARGIN - found.estimate.host.left
    advice = found.warnings[-1]
    assert "more layers on the cards (-ngl)" in advice
    locked = plan(MODEL, gpus, replace(settings, load_mode="none"), margin_bytes=MARGIN, host=16 * MIB)
    assert "without -lm none (--no-mmap" in next(w for w in locked.warnings if "host is short" in w)


def test_what_no_division_can_hold_is_said() -> None:
    """Where cards and host together have too little, no option moves it so that it fits."""
    one = estimate(MODEL, [gpu(400)], replace(SETTINGS, n_ctx=512))
    need = one.gpus[0].total + one.host.total
    for more, said in ((-2, True), (2, False)):
        half = need // 2 // MIB + more
        found = plan(MODEL, [gpu(half)], replace(SETTINGS, n_ctx=512), margin_bytes=0, host=half * MIB)
        assert not found.fits
        assert ("cards and host together have" in " ".join(found.warnings)) is said


def test_pages_of_the_file_are_told_from_what_is_allocated() -> None:
    """A host that lacks no more than what is mapped would start, and is told so; one that lacks the cache would not."""
    settings = replace(SETTINGS, n_ctx=1024)
    need = estimate(MODEL, "none", settings)
    assert need.host.mapped == need.host.model  # f16 is not repacked
    short = plan(MODEL, "none", settings, margin_bytes=0, host=need.host.total - MIB)
    assert "would start, and wait for the disk" in " ".join(short.warnings)
    assert estimate(MODEL, "none", replace(settings, load_mode="none")).host.mapped == 0
    for kind, said in (
        ("f16", "pages of the model's file."),
        ("q4_0", "KiB are pages of the model's file, "),
    ):
        found = plan(dense(2, weight_type=kind), "none", settings, margin_bytes=0, host="1GiB")
        assert said in next(note for note in notes(found) if note.startswith("Of the weights on the host"))


def test_little_that_is_left_is_not_for_a_cache_of_prompts() -> None:
    settings = vramfit.server_settings(n_ctx=1024)
    (said,) = (w for w in plan(MODEL, [gpu(400)], settings, host="2GiB").warnings if "--cache-ram" in w)
    assert said.startswith("llama-server keeps prompts in up to 8 GiB")
    for other in (
        plan(MODEL, [gpu(400)], settings, host="64GiB"),
        plan(MODEL, [gpu(400)], SETTINGS, host="2GiB"),
    ):
        assert "--cache-ram" not in " ".join(other.warnings)


def test_what_is_locked_is_all_up_to_the_last_mapped_tensor() -> None:
    """With --mlock over a mapping the pages between tensors of the host stay in memory, too."""
    plain = replace(SETTINGS, n_ctx=1024, n_gpu_layers=3)
    mapped, locked = (
        estimate(MODEL, [gpu(400)], replace(plain, load_mode=mode), host="1GiB")
        for mode in ("mmap", "mmap+mlock")
    )
    assert mapped.host.beside == 0
    names = [t.name for t in MODEL.tensors]
    on_host = {w.tensor.name for w, at in zip(MODEL.weights, mapped.placement.weights, strict=True) if at < 0}
    last = max(names.index(name) for name in on_host)
    skipped = sum(t.n_bytes for t in MODEL.tensors[: last + 1] if t.name not in on_host)
    assert locked.host.beside == skipped > 0
    assert locked.host.left == mapped.host.left - skipped
    assert "locked" in plan_text(plan(MODEL, [gpu(400)], replace(plain, load_mode="mmap+mlock"), host="1GiB"))


def test_what_is_read_row_by_row_is_not_held() -> None:
    lazy = tuple(w._replace(lazy=w.tensor.name == "token_embd.weight") for w in MODEL.weights)
    model = replace(MODEL, weights=lazy)
    found = estimate(model, [gpu(400)], replace(SETTINGS, n_ctx=512), host="1GiB")
    assert found.host.beside == -MODEL.weights[0].tensor.n_bytes
    assert found.host.left == GIB - found.host.total + MODEL.weights[0].tensor.n_bytes
    assert estimate(model, [jetson(400)], replace(SETTINGS, n_ctx=512)).host.beside == 0


# --- one memory


def test_a_mac_counts_the_host_once() -> None:
    """What the host takes is out of the GPU's memory, and a tensor that both map lies there once."""
    settings = replace(SETTINGS, n_ctx=2048)
    found = estimate(TIED, mac(500), settings)
    (card,), host = found.gpus, found.host
    embedding = TIED.weights[0].tensor.n_bytes
    assert card.beside == host.total - embedding
    assert card.left == card.free_bytes - card.total - card.beside
    allocated = estimate(TIED, mac(500), replace(settings, load_mode="none"))
    assert allocated.gpus[0].beside == allocated.host.total


def test_a_mac_maps_what_lies_between() -> None:
    """Tensors that nobody uses are mapped with those around them."""
    extra = vramfit.Tensor("blk.1.unused.weight", (64, 64), TIED.tensors[0].type)
    tensors = list(TIED.tensors)
    inner, outer = ([*tensors[:9], extra, *tensors[9:]], [*tensors, extra])
    settings = replace(SETTINGS, n_ctx=2048)
    plain, between, behind = (
        estimate(replace(TIED, tensors=tuple(t)), mac(500), settings).gpus[0] for t in (tensors, inner, outer)
    )
    assert between.beside == plain.beside + extra.n_bytes
    assert behind.beside == plain.beside


def test_a_jetson_copies_and_shares_nothing() -> None:
    """Chips that share the system's memory do not map by themselves (mmap_support): both copies count."""
    found = estimate(TIED, jetson(500), replace(SETTINGS, n_ctx=2048))
    assert found.gpus[0].beside == found.host.total
    assert found.host.mapped == 0


@pytest.mark.parametrize("shared", [mac(100), jetson(100)])
def test_the_cache_of_a_shared_memory_gains_nothing_on_the_host(shared: Gpu) -> None:
    on_card = plan(MODEL, shared, SETTINGS, margin_bytes=MARGIN)
    on_host = plan(MODEL, shared, replace(SETTINGS, offload_kqv=False), margin_bytes=MARGIN)
    assert on_card.fits
    assert on_host.n_ctx <= on_card.n_ctx < MODEL.n_ctx_train
    assert on_host.estimate.gpus[0].beside > on_card.estimate.gpus[0].beside


def test_what_linux_lends_can_be_raised() -> None:
    """Where GTT limits a plan, the kernel's parameter is named, and the cards that a plan for it takes."""
    (halo,) = parse_gpus("strix-halo")
    model = dense(4, n_embd=4096, n_ff=8192, n_vocab=256, n_head=32, n_head_kv=32, n_ctx_train=1 << 22)
    found = plan(model, halo, SETTINGS)
    said = next(w for w in found.warnings if "ttm.pages_limit" in w)
    raised = said.rpartition("--gpus ")[2]
    assert plan(model, raised, SETTINGS).n_ctx > found.n_ctx
    assert "ttm.pages_limit=30198988" in plan_text(found)
    larger = plan(model, halo, replace(SETTINGS, n_ctx=1 << 22))
    assert "would not be enough" in " ".join(larger.warnings)
    assert "ttm" not in " ".join(plan(MODEL, parse_gpus("strix-halo:120GiB"), SETTINGS).warnings)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("gb10", "isolate multi-user.target"),
        ("strix-halo", "lends 115 GiB, after a restart"),
        ("780m:12GiB", "half of that unless it is told otherwise (GTT)."),
        ("140v:12GiB", "llama-server --list-devices"),
        ("m3-max-16-core-cpu-64gb", ""),
        ("4090", ""),
    ],
)
def test_how_much_a_chip_is_lent(words: str, said: str) -> None:
    (chip,) = parse_gpus(words)
    assert bool(lent_sentence(chip)) is bool(said)
    assert said in " ".join(notes(plan(MODEL, chip, replace(SETTINGS, n_ctx=512))))


def test_a_host_beside_shared_memory_is_refused() -> None:
    with pytest.raises(GpuError, match=r"shares the system's memory.*mac:60MiB"):
        plan(MODEL, mac(60), SETTINGS, host="64GiB")


def test_unified_cards_are_apart_in_a_shortlist() -> None:
    """A chip that shares its memory with the host needs more of it than a card that is as large."""
    settings = replace(SETTINGS, n_ctx=8192)
    need = estimate(MODEL, [gpu(400)], settings)
    free = need.gpus[0].total + need.host.total // 2
    cards = [Gpu(name=f"{name} {i}", total_bytes=free + i, backend="cuda", unified=name == "shared")
             for name in ("shared", "own") for i in range(3)]  # fmt: skip
    found = which(MODEL, settings, gpus=cards, margin_bytes=0, max_cards=1)
    assert {c.gpus[0].name.split()[0] for c in found.singles} == {"own"}
    assert not which(MODEL, settings, gpus=cards, margin_bytes=0, host=need.host.total // 2).singles
    assert which(MODEL, settings, gpus=cards, margin_bytes=0, host=need.host.total).singles


def test_a_sweep_counts_the_host_of_shared_memory() -> None:
    settings = replace(SETTINGS, n_ctx=2048, n_seq_max=1)
    need = estimate(MODEL, jetson(400), settings)
    room = need.gpus[0].total + need.host.total
    for size, fits in ((room, True), (room - 1, False)):
        chip = Gpu(name="jetson", total_bytes=size, unified=True, compute_capability="8.6")
        found = vramfit.sweep(MODEL, chip, settings, n_ctx=[2048], margin_bytes=0, replays=None)
        assert [row["fits"] for row in found] == [fits]


def test_a_sweep_judges_the_host() -> None:
    """Each point of a sweep fits where the estimate of it leaves the margin on the host."""
    settings = replace(SETTINGS, n_gpu_layers=3)
    for gpus in ("none", [gpu(400)]):
        ones = [estimate(MODEL, gpus, replace(settings, n_ctx=n), host="1GiB") for n in (1024, 8192, 16384)]
        size = ones[1].host.total + MARGIN
        found = vramfit.sweep(
            MODEL, gpus, settings, n_ctx=[1024, 8192, 16384], margin_bytes=MARGIN, host=size
        )
        assert [row["fits"] for row in found] == [True, True, False]
        for row, one in zip(found, ones, strict=True):
            assert row["left"] == min([size - one.host.total, *(g.left for g in one.gpus)])


# --- alternatives


def test_experts_go_to_the_host_as_far_as_it_holds_them() -> None:
    """Where the host does not hold all experts, as many as it holds are enough, if they are."""
    settings = replace(SETTINGS, n_ctx=4096)
    whole = estimate(EXPERTS, [gpu(400)], settings)
    half = [gpu(mib=whole.gpus[0].total * 2 // 3 // MIB)]
    free = best(EXPERTS, half, settings, margin_bytes=0)
    assert free.fits
    host = free.plan.estimate.host
    limited = best(EXPERTS, half, settings, margin_bytes=0, host=host.total + MIB)
    assert limited.fits
    assert limited.plan.estimate.host.left >= 0
    assert not best(EXPERTS, half, settings, margin_bytes=0, host=host.total // 2).fits
    kind = "experts on the host"
    (alone,) = (
        r for r in trades(EXPERTS, half, settings, margin_bytes=0, brief=True).useful if r.kind == kind
    )
    need = alone.plan.estimate.host.total
    (row,) = (
        r
        for r in trades(EXPERTS, half, settings, margin_bytes=0, brief=True, host=need).useful
        if r.kind == kind
    )
    assert row.flags == alone.flags
    rows = trades(EXPERTS, half, settings, margin_bytes=0, brief=True, host=need - 1).useful
    assert kind not in {r.kind for r in rows}


def test_a_host_alone_has_alternatives() -> None:
    found = trades(MODEL, "none", SETTINGS, margin_bytes=MARGIN, host=64 * MIB)
    assert {row.kind for row in found.useful} >= {"cache types"}
    assert all(row.plan.estimate.host.left >= MARGIN for row in found.useful)
    assert best(MODEL, "none", SETTINGS, prefer="context", margin_bytes=MARGIN, host=64 * MIB).gain > 0
    assert trades(MODEL, "none", SETTINGS, margin_bytes=MARGIN).rows == ()


def test_a_comparison_respects_the_host() -> None:
    found = vramfit.compare(
        MODEL,
        "none",
        SETTINGS,
        file_types="COPY",
        cache_types=["f16", "q8_0"],
        margin_bytes=MARGIN,
        host=64 * MIB,
    )
    assert found.choices[0].n_ctx < found.choices[1].n_ctx < MODEL.n_ctx_train
    assert {c.limited_by for c in found.choices} == {"host"}


# --- what is shown, and the command line


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["plan", str(FILE), *words])
    return done.exit_code, done.output


def test_the_command_line_judges_the_host() -> None:
    status, text = run("--gpus", "none", "--host", "24GiB", "-fa", "on")
    assert status == 0
    assert "fits on the host with at least 1 GiB left; limited by host." in text
    assert "free      24,576" in text
    status, text = run("--gpus", "none", "--host", "4GiB", "--json")
    found = json.loads(text)
    assert (status, found["fits"], found["limited_by"]) == (3, False, "host")
    assert found["host"]["free"] == 4 * GIB
    assert found["host"]["left"] < 0 < found["host"]["mapped"]
    status, text = run("--gpus", "4090", "--host", "64GiB", "-fa", "on", "--ctx", "4096")
    assert "left on every card and the host" in text


def test_the_command_line_says_what_is_wrong_with_a_host() -> None:
    for words, message in (
        ("16", "16 MiB, or GiB?"),
        ("9GiB:10GiB", "more is free"),
        ("tower", "behind -- a line of llama-server may name the address it listens on"),
    ):
        status, text = run("--gpus", "none", "--host", words)
        assert (status, message in " ".join(text.split())) == (1, True)
    assert run("--gpus", "4090", "--host", "0.0.0.0", "--ctx", "4096") == run(
        "--gpus", "4090", "--ctx", "4096"
    )


def test_this_machines_host_comes_with_its_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where cards are found the host is asked for, too; named cards have no host; shared memory needs none."""
    monkeypatch.setattr("vramfit._devices.detect.own_cards", lambda engine=None: parse_gpus("4090"))
    monkeypatch.setattr(host_detection, "detect_host", lambda: Host(64 * GIB, 60 * GIB))
    ask = ("-fa", "on", "--ctx", "4096", "--json")
    assert json.loads(run(*ask)[1])["host"]["free"] == 60 * GIB
    assert json.loads(run("--gpus", "4090", *ask)[1])["host"]["free"] is None
    assert json.loads(run("--gpus", "4090", "--host", "auto", *ask)[1])["host"]["free"] == 60 * GIB
    assert json.loads(run("--gpus", "m3-ultra-512gb", "--host", "auto", *ask)[1])["host"]["free"] is None
    monkeypatch.setattr(host_detection, "detect_host", lambda: None)
    assert json.loads(run(*ask)[1])["host"]["free"] is None
    assert "does not say how much memory" in run("--gpus", "4090", "--host", "auto")[1]


def test_a_page_draws_the_host() -> None:
    page = fragment(plan(MODEL, "none", SETTINGS, margin_bytes=MARGIN, host=64 * MIB))
    assert "64 MiB free" in page
    shared = fragment(plan(MODEL, mac(100), SETTINGS, margin_bytes=MARGIN))
    assert 'class="other"' in shared
    assert "host, as well" in shared


# --- detection

MEMINFO = "MemTotal:       16384000 kB\nMemFree:         1000000 kB\nMemAvailable:   12000000 kB\n\nHugePages_Total: 0\n"
X86 = "processor : 0\nflags\t\t: fpu avx2 avx512f avx512cd avx512bw avx512dq avx512vl avx512_vnni amx_int8\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm sve\n"


def test_linux(tmp_path: Path) -> None:
    """Memory and the words of the CPU come from the kernel's files."""
    (tmp_path / "proc").mkdir()
    assert detect_host(platform="linux", root=tmp_path) is None
    (tmp_path / "proc/meminfo").write_text(MEMINFO)
    assert detect_host(platform="linux", root=tmp_path) == Host(16384000 << 10, 12000000 << 10)
    (tmp_path / "proc/cpuinfo").write_text(ARM)
    found = Host(16384000 << 10, 12000000 << 10, ("neon", "dotprod", "i8mm"))
    assert detect_host(platform="linux", root=tmp_path) == found


def test_features() -> None:
    assert parse_cpuinfo(X86) == ("avx2", "avx512", "amx")
    assert parse_cpuinfo("flags : avx2 avx512f\n") == ("avx2",)
    assert parse_cpuinfo("processor : 0\n") is None


@examples(50)
@given(st.text())
def test_any_text_is_no_error(text: str) -> None:
    """Whatever a file of /proc holds, it is read or left."""
    parse_cpuinfo(text)
    parse_sysctl(text)


def test_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Mac's programs are asked, Windows is; who is neither has no files of a kernel."""
    said = {
        "sysctl -n hw.memsize": "68719476736\n",
        "vm_stat": "page size of 16384 bytes\nPages free: 1000.\n",
    }
    for module in ("host_memory", "host_detection"):
        monkeypatch.setattr(
            f"vramfit._devices.{module}.ask", lambda command: Answer(said.get(" ".join(command), "1\n0\n"))
        )
    assert detect_host(platform="darwin") == Host(64 * GIB, 1000 << 14, ("neon", "dotprod"))
    assert parse_sysctl("1\n1\n") == ("neon", "dotprod", "i8mm")
    assert parse_sysctl("") is None
    assert detect_host(platform="win32") is None  # no kernel32 here


def test_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its CPU can do follows from its name alone."""
    found = HostMemory(64 * GIB, 50 * GIB)
    monkeypatch.setattr("vramfit._devices.host_detection.host_memory", lambda **_: found)
    monkeypatch.setattr("platform.machine", lambda: "AMD64")
    assert detect_host(platform="win32") == Host(64 * GIB, 50 * GIB)
    monkeypatch.setattr("platform.machine", lambda: "ARM64")
    assert detect_host(platform="win32") == Host(64 * GIB, 50 * GIB, ("neon",))


def test_this_machine_answers_or_not() -> None:
    found = detect_host()
    assert found is None or 0 < found.free <= found.total_bytes


def hosts(model: Model, host: str) -> int:
    """Bytes of weights that a host alone holds."""
    return estimate(model, "none", replace(SETTINGS, n_ctx=256), host=host).host.model


@pytest.mark.parametrize(
    ("weight_type", "features", "twice"),
    [
        ("q8_0", "avx2,avx512", False),
        ("q8_0", "neon,dotprod", True),
        ("q4_0", "avx2", True),
        ("q4_0", "neon", False),
        ("q4_0", "neon,i8mm", True),
        ("q6_K", "avx2", False),
        ("q6_K", "neon,i8mm", True),
        ("q2_K", "avx2", False),
        ("q2_K", "avx2,avx512", True),
        ("mxfp4", "neon,dotprod", True),
        ("f16", "avx2,avx512", False),
    ],
)
def test_repacked_embeddings_are_there_twice(weight_type: str, features: str, twice: bool) -> None:
    """Tied embeddings of a type that the CPU repacks lie there in two orders, one of them repacked."""
    tied, apart = (dense(2, n_embd=256, tied=t, weight_type=weight_type) for t in (True, False))
    embedding = tied.weights[0].tensor.n_bytes
    one = hosts(apart, "1GiB," + features) - embedding
    assert hosts(tied, "1GiB," + features) == one + (embedding if twice else 0)


def test_tiles_of_amx_take_more() -> None:
    """AMX adds four bytes to a block of 32 of q8_0 (mmq.cpp:246), where rows and columns are whole tiles."""
    model = dense(2, weight_type="q8_0", n_vocab=1024)
    found = hosts(model, "1GiB,avx2,avx512,amx") - hosts(model, "1GiB,avx2,avx512")
    blocks = sum(
        t.n_elements // 32 for t in model.tensors if len(t.shape) == 2 and t.name != "token_embd.weight"
    )
    assert found == 4 * blocks
    uneven = dense(2, weight_type="q8_0", n_vocab=1008)  # the output has 63 times 16 rows: no whole tiles
    output = next(t for t in uneven.tensors if t.name == "output.weight")
    assert hosts(uneven, "1GiB,avx2,amx") - hosts(uneven, "1GiB,avx2") == 4 * (blocks - 1024 * 256 // 32)
    assert output.shape[1] % 32
