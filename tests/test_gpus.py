from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import dense

from vramfit._base.errors import GpuError, VramfitError
from vramfit._devices import (
    Gpu,
    all_cards,
    all_gpus,
    catalogue,
    find,
    parse_gpus,
    rules,
    told_apart,
    validate_catalogue,
    versions,
)
from vramfit._devices.catalogue import catalogue_path, load
from vramfit._devices.spec import from_card
from vramfit._planner.plan import plan

MIB = 1 << 20
GIB = 1 << 30
FACTS = Path(__file__).parents[2] / "shared" / "reference" / "gpus_facts.yaml"


# --- the noun


def test_free_memory_that_is_given_counts_as_measured() -> None:
    gpu = Gpu(name="gpu0", total_bytes=24564 << 20, free_bytes=24200 << 20)
    assert (gpu.free, gpu.free_measured, gpu.backend) == (24200 << 20, True, "cuda")


def test_free_memory_that_is_left_out_is_the_total_less_the_overhead() -> None:
    gpu = Gpu(name="gpu0", total_bytes=GIB, overhead_bytes=MIB)
    assert (gpu.free, gpu.free_measured) == (GIB - MIB, False)
    assert replace(gpu, name="other").free_measured is False


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "a\x1b[31m"),
        ("name", None),
        ("total_bytes", 0),
        ("total_bytes", -1),
        ("total_bytes", 1.5),
        ("total_bytes", True),
        ("total_bytes", 1 << 60),
        ("free_bytes", -1),
        ("free_bytes", GIB + 1),
        ("free_bytes", "1"),
        ("overhead_bytes", GIB + 1),
        ("backend", "glide"),
        ("bandwidth_gbs", 0),
        ("bandwidth_gbs", math.nan),
        ("compute_capability", 8.6),
        ("compute_capability", "gfx1100"),
        ("compute_capability", "[N/A]"),
        ("compute_capability", ""),
    ],
)
def test_a_value_that_no_card_has_is_named(field: str, value: object) -> None:
    values: dict[str, object] = {"name": "gpu0", "total_bytes": GIB, field: value}
    with pytest.raises(GpuError, match=field):
        Gpu(**values)  # type: ignore[arg-type]


def test_a_capability_is_text_as_its_backend_writes_it() -> None:
    card = Gpu(name="gpu0", total_bytes=GIB, free_bytes=GIB, compute_capability="8.6")
    assert card.compute_capability == "8.6"
    assert Gpu("gpu0", GIB).compute_capability is None
    assert Gpu("gpu0", GIB, backend="hip", compute_capability="gfx90a").compute_capability == "gfx90a"


def test_every_nvidia_card_has_the_capability_of_its_generation() -> None:
    """The first figure follows from the generation (NVIDIA's table of CUDA GPUs)."""
    majors = {"Kepler": "3", "Maxwell": "5", "Pascal": "6", "Volta": "7", "Turing": "7", "Ampere": "8", "Ada": "8", "Hopper": "9"}  # fmt: skip
    for card in all_cards():
        if card.vendor != "nvidia":
            continue
        major = (card.compute_capability or "").partition(".")[0]
        assert major in ({majors[card.arch]} if card.arch in majors else {"10", "11", "12"}), card


# --- the words of --gpus


@pytest.mark.parametrize(
    "text", ["3090ti", "3090 ti", "rtx 3090 Ti", "RTX-3090-TI", "NVIDIA GeForce RTX 3090 Ti", " 3090Ti "]
)
def test_spaces_case_dashes_and_brands_do_not_matter(text: str) -> None:
    assert [g.id for g in parse_gpus(text)] == ["rtx-3090-ti"]


def test_a_count_has_two_digits_at_most_so_that_7900xtx_is_a_card() -> None:
    assert [g.id for g in parse_gpus("2x7900xtx,9070xt")] == ["rx-7900-xtx", "rx-7900-xtx", "rx-9070-xt"]


@pytest.mark.parametrize("text", ["2x4090", "2 x 4090", "2X rtx 4090", "2×4090", "4090,4090"])
def test_a_count_stands_before_a_card(text: str) -> None:
    assert [g.id for g in parse_gpus(text)] == ["rtx-4090"] * 2


@pytest.mark.parametrize(
    ("text", "mib"),
    [("24GiB", 24576), ("24564MiB", 24564), ("24GB", 24576), ("24g", 24576), ("1.5 gib", 1536)],
)
def test_a_size_is_a_card_all_of_it_free(text: str, mib: int) -> None:
    (gpu,) = parse_gpus(text)
    assert (gpu.total_bytes, gpu.free, gpu.free_measured, gpu.overhead_bytes) == (
        mib * MIB,
        mib * MIB,
        False,
        0,
    )


@pytest.mark.parametrize(
    ("text", "mib"), [("3090ti:22000MiB", 22000), ("3090ti:22GiB", 22528), ("24GiB: 20GiB", 20480)]
)
def test_free_memory_stands_behind_a_colon(text: str, mib: int) -> None:
    (gpu,) = parse_gpus(text)
    assert (gpu.free, gpu.free_measured, gpu.overhead_bytes) == (mib * MIB, True, 0)


def test_more_free_memory_than_assumed_raises_the_total_up_to_the_box() -> None:
    (gpu,) = parse_gpus("3090ti:24500MiB")
    assert gpu.total_bytes == gpu.free == 24500 * MIB
    with pytest.raises(GpuError, match="24576 MiB"):
        parse_gpus("3090ti:24577MiB")


@pytest.mark.parametrize(
    ("text", "card"),
    [
        ("m3-ultra-512gb", "m3-ultra-512gb"),
        ("Apple M3 Ultra 512 GB", "m3-ultra-512gb"),
        ("m4 max 36gb", "m4-max-32-core-gpu-36gb"),
        ("h100 80gb", "h100-sxm"),
        ("4060ti-16gb", "rtx-4060-ti-16gb"),
        ("Tesla V100-SXM2-32GB", "tesla-v100-32gb"),
        ("7900xtx", "rx-7900-xtx"),
        ("9070xt", "rx-9070-xt"),
    ],
)
def test_a_memory_size_may_follow_the_name(text: str, card: str) -> None:
    assert find(text).id == card


def test_a_name_without_a_size_is_the_smallest_and_says_so() -> None:
    """No name of the catalogue is read as more memory than another card of that name has, and never silently."""
    for card in all_cards():
        bare = re.sub(r"[ -]\d+ ?gb$", "", card.name, flags=re.IGNORECASE)
        for name in (card.name, *card.aliases, bare):
            known = versions(name)
            assert find(name) == known[0] == min(known, key=lambda c: c.memory_gib or 0)
            if "," in name or rules().total_mib(known[0]) is None:
                continue
            (gpu,) = parse_gpus(name)
            assert gpu.id == known[0].id
            assert ("smallest of that name" in gpu.assumed) == (len(known) > 1)
            assert all(f"{c.id} ({c.memory_gib} GB)" in gpu.assumed for c in known[1:])


@pytest.mark.parametrize(
    ("text", "card", "others"),
    [
        ("5060ti", "rtx-5060-ti-8gb", "rtx-5060-ti-16gb (16 GB)"),
        ("4060 Ti", "rtx-4060-ti-8gb", "rtx-4060-ti-16gb (16 GB)"),
        ("rtx 3060", "rtx-3060-8gb", "rtx-3060 (12 GB)"),
        ("a100", "a100-40gb", "a100-80gb-sxm (80 GB)"),
        ("m3 ultra", "m3-ultra-96gb", "m3-ultra-256gb (256 GB) or m3-ultra-512gb (512 GB)"),
    ],
)
def test_the_smallest_is_taken_and_the_others_named(text: str, card: str, others: str) -> None:
    """The sentence goes where the card goes: into the warnings of a plan."""
    (gpu,) = parse_gpus(text)
    assert gpu.id == card
    assert others in gpu.assumed
    assert plan(dense(), [gpu, gpu]).warnings[0] == gpu.assumed
    assert plan(dense(), [gpu, gpu]).warnings.count(gpu.assumed) == 1


def test_free_memory_and_ids_leave_no_doubt() -> None:
    """A card that cannot have so much free is not meant; an id of the catalogue is one card."""
    for text in ("3060:11500MiB", "rtx-3060", "RTX-3060", "3060 12gb"):
        (gpu,) = parse_gpus(text)
        assert (gpu.id, gpu.assumed) == ("rtx-3060", "")
    assert parse_gpus("3060:7000MiB")[0].id == "rtx-3060-8gb"
    with pytest.raises(GpuError, match="rtx-3060:13000MiB"):
        parse_gpus("3060:13000MiB")


def test_cards_of_one_model_are_told_apart() -> None:
    """Each name stands once, whatever the cards are called; a name that is alone stays as it is."""
    assert told_apart(parse_gpus("2x3090,4090")) == (
        "GeForce RTX 3090 #1", "GeForce RTX 3090 #2", "GeForce RTX 4090",
    )  # fmt: skip
    assert told_apart([Gpu(n, GIB) for n in ("a", "a #1", "a", "a #3")]) == ("a #2", "a #1", "a #4", "a #3")


@given(st.lists(st.sampled_from(["a", "a #1", "a #2", "a #1 #1", "b"]), max_size=8))
def test_names_told_apart_differ(names: list[str]) -> None:
    """As many names as cards, no two alike."""
    found = told_apart([Gpu(n, GIB) for n in names])
    assert len(set(found)) == len(names)
    assert all(own.startswith(name) for own, name in zip(found, names, strict=True))


@pytest.mark.parametrize("text", ["none", "cpu", " CPU "])
def test_no_card_at_all(text: str) -> None:
    assert parse_gpus(text) == ()


def test_a_sequence_holds_names_and_cards() -> None:
    own = Gpu(name="own", total_bytes=GIB)
    assert [g.name for g in parse_gpus([own, "2x3060-12gb"])] == ["own", *["GeForce RTX 3060 12GB"] * 2]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("3090to", "did you mean rtx-3090-ti"),
        ("geforce 4070tie", "rtx-4070-ti"),
        ("m3-ultra-100gb", "known sizes: m3-ultra-96gb"),
        ("rtx 4000", "quadro-rtx-4000 or rtx-a4000 or rtx-4000-ada"),
        ("780m", "radeon-780m:16GiB"),
        ("qqqqqq", "vramfit gpus"),
        ("", "names no card"),
        ("3060,", "names no card"),
        ("3060:lots", "'lots' is not a size"),
        ("3060:", "not a size"),
        ("0x3060", "1 to 16"),
        ("17x3060", "1 to 16"),
        ("9x3060,8x4090", "17 cards"),
        ("none,3060", "cannot be combined"),
        ("0GiB", "total_bytes"),
        (7, "not a list"),
        (b"3060", "not a list"),
        ([7], "not a card"),
    ],
)
def test_what_is_wrong_is_said(text: object, says: str) -> None:
    with pytest.raises(GpuError, match=says):
        parse_gpus(text)  # type: ignore[arg-type]


@given(st.text() | st.from_regex(r"\s*\d*x?[a-z0-9 .:,-]{0,20}(GiB|MiB|gb)?", fullmatch=True))
def test_any_text_gives_cards_or_an_error_of_ours(text: str) -> None:
    """Whatever is typed, `parse_gpus` gives at most sixteen cards or raises a VramfitError."""
    try:
        gpus = parse_gpus(text)
    except VramfitError:
        return
    assert len(gpus) <= 16
    assert all(0 <= g.free <= g.total_bytes for g in gpus)


@given(st.lists(st.sampled_from(["3090ti", "3060", "24GiB", "4090:20GiB"]), min_size=1, max_size=8))
def test_a_list_is_its_items_in_order(items: list[str]) -> None:
    """Parsing a list is parsing each item."""
    assert parse_gpus(",".join(items)) == tuple(parse_gpus(i)[0] for i in items) == parse_gpus(items)


# --- what is assumed


def test_every_observed_total_is_at_or_above_what_the_fallback_would_assume() -> None:
    for card in all_cards():
        seen = card.linux_mib[0] if card.linux_mib else None
        guess = rules().total_mib(card._replace(linux_mib=None))
        special = card.id == "strix-halo"  # Linux hands it half of the RAM by default
        assert seen is None or guess is None or special or guess <= seen, card.id


def test_never_more_is_assumed_than_a_source_saw() -> None:
    for card in all_cards():
        total = rules().total_mib(card)
        for seen in (card.nvidia_smi_mib, card.windows_mib, card.linux_mib and card.linux_mib[1]):
            assert total is None or seen is None or total <= seen, card.id


@pytest.mark.parametrize(
    ("card", "seen_mib"),
    [
        ("4060ti 16gb", 107),
        ("5060ti 16gb", 164),
        ("3090", 271),
        ("4090", 395),
        ("v100 32gb", 394),
        ("rtx pro 6000", 555),
    ],
)
def test_the_context_is_at_least_what_was_measured(card: str, seen_mib: int) -> None:
    (gpu,) = parse_gpus(card)
    assert seen_mib * MIB <= gpu.overhead_bytes <= 560 * MIB


@pytest.mark.parametrize(
    ("card", "free_mib"),
    [
        ("3090", 23853),
        ("4090", 23687),
        ("5060ti 16gb", 15686),
        ("7900xtx", 24520),
        ("r9700", 32472),
        ("b580", 11959),
        ("b70", 31861),
        ("v100 32gb", 32100),
    ],
)
def test_no_more_is_assumed_free_than_was_seen_on_an_idle_card(card: str, free_mib: int) -> None:
    assert parse_gpus(card)[0].free <= free_mib * MIB


@pytest.mark.parametrize(
    ("card", "mib"),
    [("m1-16gb", 10922), ("m2-pro-32gb", 21845), ("m1-max-64gb", 49152), ("m2-ultra-192gb", 147456)],
)
def test_a_mac_lends_what_older_systems_lend(card: str, mib: int) -> None:
    assert parse_gpus(card)[0].total_bytes == mib * MIB


def test_a_mac_with_a_raised_limit_is_told_by_its_free_memory() -> None:
    assert parse_gpus("m3-ultra-512gb:464GiB")[0].total_bytes == 464 * GIB


def test_ecc_is_assumed_where_no_one_saw_the_card_without_it() -> None:
    assert rules().total_mib(find("p40")) == 23040 - 512
    assert rules().total_mib(find("a6000")) == 48157  # seen with ECC off


def test_all_gpus_are_sorted_by_memory() -> None:
    gpus = all_gpus()
    assert len(gpus) == 240
    assert [g.total_bytes for g in gpus] == sorted(g.total_bytes for g in gpus)


# --- the catalogue


def test_the_catalogue_is_sound() -> None:
    assert validate_catalogue() == 213


def test_yaml_reads_what_the_fast_path_reads() -> None:
    import yaml

    assert yaml.safe_load(catalogue_path().read_text(encoding="utf-8")) == load(catalogue_path())


def test_the_catalogue_takes_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vramfit._devices.catalogue._load_yaml", None)
    assert load(catalogue_path())["format"] == 1


def test_every_name_of_the_catalogue_finds_its_card() -> None:
    for entry in load(catalogue_path())["cards"]:
        if not isinstance(entry["memory_gib"], list):
            for name in (entry["id"], entry["name"], *entry["aliases"]):
                assert entry["id"] in {card.id for card in versions(name)}
    for card in all_cards():
        assert versions(card.id) == (card,)
        assert card in versions(card.name)


@pytest.mark.skipif(not FACTS.exists(), reason="the collected facts are not here")
def test_every_collected_fact_is_in_the_catalogue() -> None:
    import yaml

    facts = yaml.safe_load(FACTS.read_text(encoding="utf-8"))
    entries = load(catalogue_path())["cards"]
    ours = {e["name"]: e for e in entries}
    listed = [*facts["nvidia"], *facts["amd"], *facts["intel"], *facts["apple"]["chips"]]
    assert len(listed) == len(ours) == 213
    same = {"id": "id", "vram_gb": "memory_gib", "ram_gb": "memory_gib", "smi_mib": "nvidia_smi_mib", "cuda_total_mib": "linux_mib", "cc": "compute_capability", "gfx": "compute_capability", "bandwidth_gbs": "bandwidth_gbs"}  # fmt: skip
    for fact in listed:
        entry = ours[fact["name"]]
        assert set(fact["aliases"]) <= set(entry["aliases"])
        assert all(entry[same[k]] == v for k, v in fact.items() if k in same), fact["name"]
        assert (
            fact.get("smi_verified", True) or not fact["smi_mib"] or "nvidia_smi_mib" in entry["unverified"]
        )


def _broken(tmp_path: Path, **changes: object) -> Path:
    data = load(catalogue_path())
    data["cards"] = [{**data["cards"][0], **changes}, data["cards"][1]]
    path = tmp_path / "gpus.yaml"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    path = _broken(
        tmp_path, memory_gib=-2, backend="glide", colour="red", sources=["hearsay"], linux_mib=[9, 8]
    )
    with pytest.raises(GpuError) as error:
        validate_catalogue(path)
    text = str(error.value)
    assert all(
        x in text for x in (str(path), "gtx-1050: ", "memory_gib", "-2", "'glide'", "colour", "'hearsay'")
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"linux_mib": [9, 8]}, "low end"),
        ({"id": "gtx-1050-ti"}, "given 2 times"),
        ({"unverified": ["colour"]}, "colour"),
        ({"nvidia_smi_mib": 9999}, "more than memory_gib"),
        ({"ecc_assumed": True}, "needs ecc_mib"),
        ({"compute_capability": 6.1}, "compute_capability = 6.1"),
    ],
)
def test_a_fault_names_card_and_field(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(GpuError, match=says):
        validate_catalogue(_broken(tmp_path, **changes))


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "\x00", "when: 2020-13-45"])
def test_what_is_no_catalogue_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gpus.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(GpuError, match=r"gpus\.yaml"):
        validate_catalogue(path)


def test_a_catalogue_in_another_yaml_style_loads(tmp_path: Path) -> None:
    import yaml

    path = tmp_path / "gpus.yaml"
    path.write_text(yaml.safe_dump(load(catalogue_path())), encoding="utf-8")
    assert validate_catalogue(path) == 213


def test_a_faulty_catalogue_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "catalogue_path", lambda: _broken(tmp_path, colour="red"))
    with pytest.raises(GpuError, match=r"colour.*validate_catalogue"):
        catalogue._catalogue.__wrapped__()


def test_unknown_memory_has_to_be_stated() -> None:
    with pytest.raises(GpuError, match="say how much"):
        from_card(find("890m"))
    assert from_card(find("890m"), 12 * GIB).total_bytes == 12 * GIB
