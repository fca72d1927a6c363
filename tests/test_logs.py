"""Logs of engines: what real lines say, and that no text breaks the reader."""

from __future__ import annotations

import io
import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vramfit._logs import HOST, Load, Size, builds_of, is_host, lines_of, read_loads
from vramfit._logs.dates import MARKS, NEWEST, OLDEST
from vramfit._logs.lines import LONGEST
from vramfit._logs.ollama import device_of, request_of, size_of, words_of
from vramfit._logs.reading import MOST_LOADS
from vramfit._logs.sieve import BLOCK, WORDS, worth_reading

DATA = Path(__file__).parent / "data" / "logs"
PRINTED = json.loads((DATA / "printed.json").read_text())
MIB = 1 << 20

ONE = """\
ggml_cuda_init: found 1 CUDA devices:
  Device 0: NVIDIA GeForce RTX 3090, compute capability 8.6, VMM: yes
build: 8470 (1a2b3c4d5) with cc for x86_64-linux-gnu
llama_model_load_from_file_impl: using device CUDA0 (NVIDIA GeForce RTX 3090) (0000:01:00.0) - 23306 MiB free
llama_model_loader: loaded meta data with 30 key-value pairs and 291 tensors from x.gguf (version GGUF V3 (latest))
llama_model_loader: - kv   0:                       general.architecture str              = llama
llama_model_loader: - type  f32:   65 tensors
print_info: file type   = Q4_K - Medium
print_info: file size   = 4.58 GiB (4.89 BPW)
print_info: arch                  = llama
print_info: n_embd                = 4096
print_info: n_layer               = 32
print_info: n_head_kv             = [8, 8, 4]
print_info: model params          = 8.03 B
load_tensors: offloaded 33/33 layers to GPU
load_tensors:   CPU_Mapped model buffer size =   281.81 MiB
load_tensors:        CUDA0 model buffer size =  4403.49 MiB
llama_context: constructing llama_context
llama_context: n_seq_max     = 1
llama_context: n_ctx         = 8192
llama_context: n_batch       = 2048
llama_context: n_ubatch      = 512
llama_context: flash_attn    = auto
llama_context: kv_unified    = false
llama_context:  CUDA_Host  output buffer size =     0.49 MiB
llama_kv_cache:      CUDA0 KV buffer size =  1024.00 MiB
llama_kv_cache: size = 1024.00 MiB (  8192 cells,  32 layers,  1/1 seqs), K (f16):  512.00 MiB, V (q8_0):  512.00 MiB
llama_context: Flash Attention was auto, set to enabled
llama_context:      CUDA0 compute buffer size =   258.50 MiB
llama_context:  CUDA_Host compute buffer size =    24.01 MiB
"""


def loads(text: Any) -> list[Load]:
    return list(read_loads(lines_of(text)))


def figures(load: Load) -> dict[str, dict[str, float]]:
    found = {
        place: {
            kind: round(size.middle / MIB, 2)
            for kind in ("model", "context", "compute", "output")
            if (size := load.sizes(place, kind))
        }
        for place in (*load.places, HOST)
    }
    return {place: kinds for place, kinds in found.items() if kinds}


@pytest.mark.parametrize("entry", PRINTED, ids=lambda e: e["log"])
def test_real_lines(entry: dict[str, Any]) -> None:
    """What programs of three years printed, buffer by buffer, and each program by its own marks."""
    found = loads((DATA / "printed" / f"{entry['log']}.log").read_bytes())
    assert len(found) == 1
    assert figures(found[0]) == entry["parsed"]
    program = entry["engine"].split(",")[0]
    if program in ("ollama", "ik_llama.cpp", "llama-cpp-python") and "rocm-qwen25" not in entry["log"]:
        assert found[0].program == program
    assert found[0].own_runner == (entry["engine"] == "ollama, new runner")


def test_one_load_whole() -> None:
    """Every fact, setting, card and buffer of a load of build 8470."""
    (load,) = loads(ONE)
    assert (load.build, load.offloaded, load.line) == ("b8470", (33, 33), 4)
    assert load.is_complete
    assert not load.projected
    card = load.devices[0]
    assert (card.name, card.title, card.capability, card.free) == (
        "CUDA0",
        "NVIDIA GeForce RTX 3090",
        "8.6",
        23306 * MIB,
    )
    assert load.facts["n_head_kv"] == [8, 8, 4]
    assert load.facts["n_params"] == 8_030_000_000
    assert load.facts["file_size"].holds(round(4.58 * 2**30))
    assert load.facts["types"] == {"f32": 65}
    assert load.keys["general.architecture"] == "llama"
    wanted = {"n_ctx": 8192, "n_seq_max": 1, "flash_attn": "auto", "kv_unified": False, "type_k": "f16", "type_v": "q8_0",
              "flash_attn_found": "on", "caches": [("llama_kv_cache", 8192, 32, 1)]}  # fmt: skip
    assert wanted.items() <= dict(load.settings).items()
    assert figures(load) == {
        "CUDA0": {"model": 4403.49, "context": 1024.0, "compute": 258.5},
        HOST: {"model": 281.81, "compute": 24.01, "output": 0.49},
    }


PREFIXES = [
    "0.01.779.588 I ", "2026-11-21T10:00:00.123Z ", "[2026-11-21 10:00:00][INFO][LM Studio] ", "Nov 21 10:00:00 host llama[123]: ",
    "llama-1  | ", "> ", "\x1b[32mINFO\x1b[0m ", "srv  log: ",
]  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES, ids=lambda p: p.strip()[:12])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\x1b[0m\n", "<BR>\n"])
def test_what_stands_around_lines(prefix: str, end: str) -> None:
    """Time stamps, names of containers, colours and other ends change nothing that is read."""
    (load,) = loads("".join(f"{prefix}{line}{end}" for line in ONE.splitlines()))
    (plain,) = loads(ONE)
    assert figures(load) == figures(plain)
    assert dict(load.settings) == dict(plain.settings)
    assert load.offloaded == plain.offloaded
    assert load.devices == plain.devices
    assert load.program == (
        "lm-studio" if "LM Studio" in prefix else "llama-server" if "srv" in prefix else ""
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_bytes_of_any_writer(encoding: str) -> None:
    """Files of PowerShell are UTF-16, and a byte that is no text harms nothing."""
    assert figures(loads(ONE.encode(encoding))[0]) == figures(loads(ONE)[0])
    assert figures(loads(ONE.encode() + b"\xff\xfe\x00 \xc3")[0]) == figures(loads(ONE)[0])


def test_logs_of_containers_in_json() -> None:
    """Docker's own files hold each line as JSON."""
    text = "".join(
        json.dumps({"log": line + "\n", "stream": "stderr"}, separators=(",", ":")) + "\n"
        for line in ONE.splitlines()
    )
    assert figures(loads(text)[0]) == figures(loads(ONE)[0])


@given(st.integers(1, 400))
@settings(max_examples=25, deadline=None)
def test_pieces_may_end_anywhere(step: int) -> None:
    """However a file is cut into pieces, the same lines come out."""
    raw = ONE.encode()
    pieces = [raw[i : i + step] for i in range(0, len(raw), step)]
    assert list(lines_of(pieces)) == list(lines_of(ONE))


@given(st.integers(0, len(ONE)))
@settings(max_examples=60, deadline=None)
def test_a_cut_log_says_nothing_false(end: int) -> None:
    """Of a log that ends anywhere, or begins anywhere, what is read is what the whole says."""
    whole = figures(loads(ONE)[0])
    for part in (ONE[:end], ONE[end:]):
        for load in loads(part):
            for place, kinds in figures(load).items():
                for kind, n in kinds.items():
                    true = whole[place][kind]
                    assert n == true or str(true).startswith(str(n)[:3]), (place, kind)


def test_several_loads_of_one_log() -> None:
    """Each has its own figures and settings; what the program said of itself holds for all."""
    other = ONE.replace("8192", "4096").replace("1024.00", "512.00")
    later = other[other.index("llama_model_load_from") :]
    first, second = loads(ONE + later)
    assert (first.settings["n_ctx"], second.settings["n_ctx"]) == (8192, 4096)
    assert second.sizes("CUDA0", "context").middle == 512 * MIB  # type: ignore[union-attr]
    assert second.build == first.build == "b8470"
    assert second.devices == first.devices
    third = loads(ONE + later + "build: 9000 (abcdef012) with cc\n" + later)[2]
    assert third.build == "b9000"


def test_two_lines_in_one() -> None:
    """Threads write over each other: two buffers in one line are two buffers."""
    line = "load_tensors:  CUDA0 model buffer size =  10.00 MiBload_tensors:  CUDA1 model buffer size =  20.00 MiB\n"
    assert figures(loads(line)[0]) == {"CUDA0": {"model": 10.0}, "CUDA1": {"model": 20.0}}


def test_later_contexts_lie_beside() -> None:
    """A draft's context on the same model is not the model's own, and a second reservation is no second buffer."""
    draft = "llama_context: constructing llama_context\nllama_context: n_ctx         = 512\n"
    draft += "llama_kv_cache:      CUDA0 KV buffer size =    64.00 MiB\nsched_reserve:      CUDA0 compute buffer size =    30.00 MiB\n"
    (load,) = loads(ONE + draft)
    assert figures(load) == figures(loads(ONE)[0])
    assert [(b.what, b.size.middle // MIB) for b in load.beside] == [
        ("another context", 64),
        ("another context", 30),
    ]
    (load,) = loads(
        ONE + "sched_reserve: reserving ...\nsched_reserve:      CUDA0 compute buffer size =   300.00 MiB\n"
    )
    assert figures(load)["CUDA0"]["compute"] == 258.5
    assert load.notes


def test_projectors_and_adapters_lie_beside() -> None:
    """What a vision projector or a LoRA takes is said, and in no figure of the model."""
    more = "alloc_compute_meta:      CUDA0 compute buffer size =   120.00 MiB\nllama_adapter_lora_init_impl:      CUDA0 LoRA buffer size =    12.00 MiB\n"
    (load,) = loads(ONE + more)
    assert figures(load) == figures(loads(ONE)[0])
    assert [b.what for b in load.beside] == ["a projector", "an adapter"]


def test_projections_of_a_fit_are_marked() -> None:
    """Loads without memory, which a fit prints where it is asked to, are no loads of a model."""
    (load,) = loads(ONE.replace("4403.49", "0.00").replace("281.81", "0.00"))
    assert load.projected


def test_ollamas_own_words() -> None:
    """Its lines give sizes, what was asked for, and cards; where llama.cpp prints too, that counts."""
    assert words_of('time=1 level=INFO msg="model weights" device=CUDA0 size="1.9 GiB"')["size"] == "1.9 GiB"
    assert words_of("no message here") == {}
    size = size_of("1.9 GiB")
    assert size is not None
    assert size.holds(round(1.93 * 2**30))
    assert not size.holds(2 << 30)
    assert size_of("much") is None
    asked, layers = request_of(
        "{Operation:commit Parallel:2 BatchSize:512 FlashAttention:Disabled KvSize:8192 KvCacheType:q8_0 GPULayers:30[ID:GPU-1 Layers:10(0..9) ID:GPU-2 Layers:20(10..29)]}"
    )
    assert asked == {
        "n_ctx": 8192,
        "n_ubatch": 512,
        "n_batch": 512,
        "n_seq_max": 2,
        "type_k": "q8_0",
        "type_v": "q8_0",
        "flash_attn": "off",
    }
    assert [n for _, n in layers] == [10, 20]
    card = device_of(
        {
            "library": "CUDA",
            "compute": "8.6",
            "name": "CUDA1",
            "description": "NVIDIA RTX",
            "total": "24.0 GiB",
            "available": "22.8 GiB",
        }
    )
    assert card is not None
    assert (card.name, card.title, card.total) == ("CUDA1", "NVIDIA RTX", 24 << 30)
    assert device_of({"library": "cpu"}) is None
    both = ONE + 'time=1 level=INFO source=device.go:1 msg="model weights" device=CUDA0 size="9.9 GiB"\n'
    assert figures(loads(both)[0])["CUDA0"]["model"] == 4403.49


def test_versions_of_ollama() -> None:
    """The server says its version once, for all loads behind it."""
    text = 'time=1 level=INFO source=routes.go:1 msg="Listening on 127.0.0.1:11434 (version 0.12.6)"\n'
    (load,) = loads(text + ONE.replace("build: 8470 (1a2b3c4d5)", ""))
    assert (load.program, load.build) == ("ollama", "ollama@0.12.6")


@pytest.mark.parametrize(
    ("line", "build"),
    [
        ("build: 4202 (9f912511) with cc", "b4202"), ("main: build = 3475 (1a2b3c4)", "b3475"), ("version: 9527 (9c955c48b)", "b9527"),
        ("build_info: b8946-0f1bb602d", "b8946"), ('"build_info":"b9000-abcdef0"', "b9000"), ("version: 1.2.3 (build 11250, commit 0c1e57098)", "b11250"),
        ('INFO [main] build info | tid="1" timestamp=1 build=3650 commit="abcdef0"', "b3650"), ("a build of 4 (x)", ""),
    ],
)  # fmt: skip
def test_how_builds_are_named(line: str, build: str) -> None:
    """Programs name their build in many ways."""
    (load,) = loads(f"{line}\n" + ONE.replace("build: 8470 (1a2b3c4d5)", ""))
    assert load.build == build


def test_command_lines_go_on_behind_a_backslash() -> None:
    """A command that was typed in several lines is one."""
    (load,) = loads("$ llama-server -m x.gguf \\\n  -c 4096 \\\n  -ngl 99\n" + ONE)
    assert load.command.split() == ["llama-server", "-m", "x.gguf", "-c", "4096", "-ngl", "99"]


def test_marks_tell_the_year() -> None:
    """Every form was printed by a span of builds, and what no build prints together narrows nothing."""
    assert all(OLDEST <= low <= high <= NEWEST for low, high in MARKS.values())
    (load,) = loads(ONE)
    low, high = builds_of(load.marks)
    assert low <= 8470 <= high
    assert builds_of({"llm_load_tensors", "sched_reserve"}) == (OLDEST, NEWEST)
    assert builds_of(()) == (OLDEST, NEWEST)


@pytest.mark.parametrize(
    "place",
    ["CPU", "CPU_Mapped", "CUDA_Host", "Vulkan_Host", "CPU_REPACK", "BLAS", "AMX", "CPU_AARCH64", "Host"],
)
def test_host_memory_has_many_names(place: str) -> None:
    """All of them are the host; cards are not."""
    assert is_host(place)
    assert not any(map(is_host, ("CUDA0", "MTL0_Mapped", "Metal", "ROCm1", "SYCL0", "RPC[127.0.0.1:50052]")))


@given(st.text(max_size=300), st.integers(0, len(ONE)))
@settings(max_examples=150, deadline=None)
def test_any_text_is_read(junk: str, at: int) -> None:
    """No text makes the reader fail, and sizes are never negative."""
    for load in loads(ONE[:at] + junk + ONE[at:]):
        assert all(0 <= b.size.low <= b.size.high for b in load.buffers)


@given(st.lists(st.sampled_from(ONE.splitlines()), max_size=30))
@settings(max_examples=60, deadline=None)
def test_lines_in_any_order_are_read(lines: list[str]) -> None:
    """Lines that come in another order, or twice, harm nothing."""
    for load in loads("\n".join(lines)):
        assert load.line >= 1
        assert len(load.buffers) <= 40


def test_memory_stays_bounded() -> None:
    """Neither a line without an end, nor millions of lines, nor thousands of loads are kept."""

    def endless() -> Any:
        for _ in range(64):
            yield b"x" * MIB
        yield b"\n" + ONE.encode()

    tracemalloc.start()
    found = loads(endless())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 1
    assert peak < 16 * MIB
    assert max(map(len, lines_of("y" * (3 * LONGEST) + "\nz"))) <= LONGEST
    short = "load_tensors: CUDA0 model buffer size = 1.00 MiB\nsched_reserve: CUDA0 compute buffer size = 1.00 MiB\n"
    assert len(loads(short * (MOST_LOADS + 100))) == MOST_LOADS


def test_files_and_lines_are_read_alike() -> None:
    """An open file gives lines; what has no figures gives no load."""
    assert figures(next(read_loads(lines_of(io.StringIO(ONE))))) == figures(loads(ONE)[0])
    assert loads("") == []
    assert loads("nothing of memory\n" * 5) == []
    assert Size(1, 2) + Size(3, 4) == Size(4, 6)


@given(
    st.lists(
        st.sampled_from(
            ["x" * 50, "load_tensors: a", "CUDA0 1 2 3", "b8470", " b8470", "msg=\\", "", "y CUDA0"]
        ),
        max_size=60,
    )
)
@settings(max_examples=60, deadline=None)
def test_lines_worth_reading(lines: list[str]) -> None:
    """A line is read when it holds one of the words, or goes on from one that is; with its own number."""
    wanted, goes_on = [], False
    for i, line in enumerate(lines, 1):
        if goes_on or any(word in f"\n{line}" for word in WORDS):
            wanted.append((i, line))
            goes_on = line.endswith("\\")
    assert list(worth_reading(lines)) == wanted


def test_blocks_of_lines() -> None:
    """Numbers go on from one block to the next."""
    lines = ["nothing"] * (2 * BLOCK) + ["buffer size"] + ["nothing"] * BLOCK + ["Host 1 2 3"]
    assert list(worth_reading(lines)) == [(2 * BLOCK + 1, "buffer size"), (3 * BLOCK + 2, "Host 1 2 3")]


HOSTILE = ["a", "llama_", "llama_context: n_ctx ", "using device A (", "using device A (x) ", "|0|[level_zero:gpu:0]|", "Device 0: ", "build: ",
           'msg="', 'msg=x a="', "tensor a buffer type ", "buffer size ", "x: CUDA0 model buffer size = ", "- kv 1: ", "llama-server -", "\x1b[", "9",
           "K (f16): ", "srv srv", "print_info: n ", "llama_memory_breakdown_print: | - ", "(", '\\"', "x: size = "]  # fmt: skip


@pytest.mark.parametrize("word", HOSTILE)
def test_no_line_takes_long(word: str) -> None:
    """A line of a pattern's own words, as long as lines get, takes no time that a reader would notice."""
    line = word * (LONGEST // len(word))
    began = time.process_time()
    loads(f"buffer size llama_ {line}\n{line} buffer size\nmsg={line}\n")
    assert time.process_time() - began < 2


NUMBERS = ["llama_kv_cache: size = 1.00 MiB ( {} cells, {} layers, {}/1 seqs), K (f16): 1", "srv load_model: initializing slots, n_slots = {}",
           "llama_model_loader: loaded meta data with 1 key-value pairs and {} tensors", "load_tensors: offloaded {}/{} layers to GPU",
           "load_tensors: layer {} assigned to device CUDA0", "ggml_cuda_init: using device CUDA0 (x) - {} MiB free", "build: {} (abcdef012)",
           "  Device {}: x, compute capability 8.6, VRAM: {} MiB", "CUDA0 {} {} {}", "print_info: n_layer = {}", "print_info: n_head = [{}, {}]",
           "llama_model_loader: - kv 1: a.block_count u32 = {}", "llama_context: n_ctx = {}", "x: CUDA0 model buffer size = {} MiB",
           "print_info: file size = {} GiB (1 BPW)", 'time=1 level=INFO msg=load request="{{KvSize:{} GPULayers:1[ID:0 Layers:{}(0)]}}"',
           'time=1 level=INFO msg="kv cache" device=CUDA0 size="{} GiB"']  # fmt: skip


@pytest.mark.parametrize("line", NUMBERS)
@pytest.mark.parametrize("digits", [1, 10, 20, 5000])
def test_numbers_of_any_length(line: str, digits: int) -> None:
    """A number that no engine prints is no number, and no error."""
    loads(line.replace("{{", "\0").replace("{}", "9" * digits).replace("\0", "{") + "\n" + ONE)


def test_how_cards_are_named() -> None:
    """Vulkan's, SYCL's and Ollama's lists name cards in their own ways; two of one name get numbers."""
    text = "ggml_vulkan: 0 = AMD Radeon RX 7900 XTX (RADV NAVI31) (radv) | uma: 0 | fp16: 1 | warp size: 64\n"
    text += "ggml_vulkan: 1 = Intel(R) UHD Graphics 770 (Intel) | uma: 1 | fp16: 1\n"
    (load,) = loads(text + "load_tensors: Vulkan0 model buffer size = 1.00 MiB\n")
    assert [d.name for d in load.devices] == ["Vulkan0", "Vulkan1"]
    assert load.devices[0].title.startswith("AMD Radeon RX 7900 XTX")
    line = 'time=1 level=INFO msg="inference compute" id=GPU-{} library=CUDA compute=8.6 name="NVIDIA GeForce RTX {}" total="24.0 GiB" available="23.0 GiB"\n'
    (load,) = loads(
        line.format(1, 3090) + line.format(2, 3060) + "load_tensors: CUDA0 model buffer size = 1.00 MiB\n"
    )
    assert len({d.name for d in load.devices}) == 2
    many = "".join(f"  Device {i}: x, compute capability 8.6, VMM: yes\n" for i in range(200))
    assert len(loads(many + ONE)[0].devices) <= 64


def test_programs_tell_themselves() -> None:
    """By what they say first; a line that another could have printed does not take it back."""
    kobold = "***\nWelcome to KoboldCpp - Version 1.98.1\n"
    (load,) = loads(kobold + ONE + "srv  load_model: initializing slots, n_slots = 2\n")
    assert (load.program, load.version) == ("koboldcpp", "1.98.1")
    (load,) = loads("llama_cpp_python==0.3.28\n" + ONE.replace("build: 8470 (1a2b3c4d5)", ""))
    assert (load.program, load.build, load.version) == (
        "llama-cpp-python",
        "llama-cpp-python@0.3.28",
        "0.3.28",
    )
    (load,) = loads("$ ./build/bin/llama-bench -m x.gguf -p 512\n" + ONE)
    assert load.program == "llama-bench"
    assert loads(ONE + "$ llama-server -m y.gguf\n" + ONE)[1].command.endswith("y.gguf")


def test_what_a_cache_line_says() -> None:
    """Caches on the host, of full size, of types that are named once; pipelining."""
    more = "llama_kv_cache_init: kv_size = 4096, offload = 0, type_k = 'q8_0', type_v = 'q4_0', n_layer = 4, can_shift = 1\n"
    more += "llama_kv_cache_iswa: using full-size SWA cache\nllama_context: pipeline parallelism enabled\n"
    (load,) = loads(more + "load_tensors: CUDA0 model buffer size = 1.00 MiB\n")
    wanted = {"offload_kqv": False, "type_k": "q8_0", "type_v": "q4_0", "swa_full": True, "pipeline": True}
    assert wanted.items() <= dict(load.settings).items()
    (load,) = loads(
        "llama_kv_cache_init: CUDA0 KV buffer size = 1.00 MiB\nllama_new_context_with_model: KV self size  =   72.91 MiB, c^KV (q8_0):   72.91 MiB, kv^T: not used\n"
    )
    assert (load.settings["type_k"], load.settings["type_v"]) == ("q8_0", "q8_0")


def test_loads_begin_where_a_model_does() -> None:
    """Also where a log lacks the line that says so: at the layers, at the architecture, at weights behind compute buffers."""
    body = ONE[ONE.index("load_tensors: offloaded") :]
    assert len(loads(body * 2)) == 2
    assert len(loads("print_info: arch = a\n" + body + "print_info: arch = b\n" + body)) == 2
    weights = body[body.index("load_tensors:   CPU_Mapped") :]
    assert len(loads(weights * 3)) == 3
    draft = "srv    load_model: creating MTP draft context against the target model\nllama_kv_cache:      CUDA0 KV buffer size =   320.00 MiB\n"
    (load,) = loads(ONE + draft)
    assert [b.what for b in load.beside] == ["another context"]
    late = "llama_kv_cache:      CUDA0 KV buffer size =   320.00 MiB\n"
    assert loads(ONE + late)[0].beside
    contexts = (
        "llama_context: n_ctx         = 512\nsched_reserve:      CUDA0 compute buffer size =    30.00 MiB\n"
        * 200
    )
    assert len(loads(ONE + contexts)) == 1


def test_values_of_odd_kinds() -> None:
    """Facts in words, keys that are no numbers, sizes without a unit."""
    text = ONE.replace("print_info: n_embd                = 4096", "print_info: n_embd                = many")
    text = text.replace("file size   = 4.58 GiB", "file size   = unknown")
    text += "llama_model_loader: - kv 3: a.b u32 = x\nllama_model_loader: - kv 4: a.c bool = true\nllama_model_loader: - kv 5: a.d f32 = 1.5\n"
    (load,) = loads(text)
    assert load.facts["n_embd"] == "many"
    assert isinstance(load.facts["file_size"], str)
    assert {"a.b": "x", "a.c": True, "a.d": 1.5}.items() <= dict(load.keys).items()
    (load,) = loads("x: CUDA0 buffer size = 3.00 MiB\nload_tensors: CUDA0 buffer size = 4.00 MiB\n")
    assert figures(load) == {"CUDA0": {"model": 4.0}}
