"""Lines of a log → the `Load`s in it, one for each time that a model was loaded.

In: lines. Out: `Load`s, as they end. What a program says of itself (its name, build, cards, command) holds for all
loads behind it; the rest belongs to one. Of several contexts of a load the first is the model's own, others lie beside.
Memory is bounded: so many loads, cards and words of each are kept, and no lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

from . import ollama
from . import patterns as p
from .nouns import COMPUTE, CONTEXT, MODEL, OUTPUT, Beside, Buffer, Device, Load, Size
from .sieve import worth_reading

__all__ = ["MOST_LOADS", "read_loads"]

MOST_LOADS: Final = 1000
_MOST: Final = 5000  # of what is collected of one load: keys, layers, tensors
_MOST_BUFFERS: Final = 256
_NOTHING: Final = 6000  # bytes that print as 0.00 MiB, and their rounding
_KINDS: Final = {
    "model": MODEL,
    "KV": CONTEXT,
    "RS": CONTEXT,
    "compute": COMPUTE,
    "output": OUTPUT,
    None: MODEL,
}
_FACTS: Final = frozenset(
    [
        "arch",
        "n_vocab",
        "n_ctx_train",
        "n_embd",
        "n_layer",
        "n_layer_all",
        "n_head",
        "n_head_kv",
        "n_rot",
        "n_swa",
        "n_embd_head_k",
        "n_embd_head_v",
        "n_gqa",
        "n_embd_k_gqa",
        "n_embd_v_gqa",
        "n_ff",
        "n_expert",
        "n_expert_used",
        "n_ff_exp",
        "n_ff_shexp",
        "n_layer_dense_lead",
        "n_lora_kv",
        "n_lora_q",
        "ssm_d_conv",
        "ssm_d_inner",
        "ssm_d_state",
        "ssm_dt_rank",
        "ssm_n_group",
        "n_layer_nextn",
        "causal_attn",
        "pooling_type",
        "is_swa_any",
        "n_embd_head_k_swa",
        "n_embd_head_v_swa",
    ]
)
_SPELT: Final = {
    "model ftype": "file_type", "file type": "file_type", "model params": "n_params", "model size": "file_size",
    "file size": "file_size", "n_embd_head_k_mla": "n_embd_head_k_mla", "n_embd_head_v_mla": "n_embd_head_v_mla",
}  # fmt: skip
_PROJECTOR: Final = re.compile(r"clip|mtmd|alloc_compute_meta|reserve_compute_meta|warmup|load_hparams_mm")
_BINDING: Final = re.compile(r"llama[-_]cpp[-_]python(?:[ =@-]|==)v?(\d+\.\d+\.\d+)")
_CACHE: Final = ("kv_size", " cells", "KV self", "SWA cache", "pipeline parallelism", "K (", "c^KV")
_DRAFT: Final = re.compile(r"(?:creating|initializing|loading).{0,20}draft (?:context|model)")
_PROGRAMS: Final = (
    (re.compile(r"Welcome to KoboldCpp - Version (?P<v>[\w.]{1,16})"), "koboldcpp"),
    (re.compile(r"(?i)\[LM ?Studio\]|lmstudio|LM STUDIO SERVER|\blms\b.{0,9}log"), "lm-studio"),
    (
        re.compile(
            r"(?:Guessed chat format|Using fallback chat format|Available chat formats from metadata|llama_cpp_python)"
        ),
        "llama-cpp-python",
    ),
    (re.compile(r"llama_server|\bsrv +\w+:|server is listening|tools/server|\bslot +\w+"), "llama-server"),
    (re.compile(r"mla_attn|fused_moe|attn_max_b|llm_prepare_mla|ik_llama"), "ik_llama.cpp"),
    (re.compile(r"^main: build ="), "llama-cli"),
)
_STRONG: Final = (
    "ollama",
    "koboldcpp",
    "lm-studio",
    "ik_llama.cpp",
    "llama-cpp-python",
)  # not taken back by a line of another


def read_loads(lines: Iterable[str]) -> Iterator[Load]:
    """Read the loads of a log in their order; those that say nothing of memory are left out."""
    reader, n = _Reader(), 0
    for at, line in worth_reading(lines):
        for load in reader.take(at, line):
            n += 1
            yield load
            if n == MOST_LOADS:
                return
    yield from reader.end()


@dataclass(slots=True)
class _Program:
    """What a program says of itself."""

    name: str = ""
    build: str = ""
    version: str = ""
    command: str = ""
    slots: int = 0
    devices: dict[str, Device] = field(default_factory=dict)


@dataclass(slots=True)
class _Making:
    """A load while it is read."""

    line: int
    facts: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    buffers: list[Buffer] = field(default_factory=list)
    beside: list[Beside] = field(default_factory=list)
    theirs: list[Buffer] = field(default_factory=list)  # what Ollama says in lines of its own
    table: list[Buffer] = field(default_factory=list)  # the table that is printed at the end
    layers: dict[int, str] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    free: dict[str, Device] = field(default_factory=dict)
    marks: set[str] = field(default_factory=set)
    offloaded: tuple[int, int] | None = None
    own_runner: bool = False
    announced: bool = False  # Ollama has said what it expects of a runner that is llama.cpp's
    contexts: int = 0
    reserved: bool = False  # a second reservation of the same context has begun
    notes: dict[str, None] = field(default_factory=dict)

    def has(self, kind: str) -> bool:
        return any(b.kind == kind for b in self.buffers)

    def is_empty(self) -> bool:
        return not (self.buffers or self.theirs or self.table)


class _Reader:
    """The state between lines."""

    def __init__(self) -> None:
        self.program = _Program()
        self.now: _Making | None = None
        self.last: _Making | None = None  # the one before, for what is printed when a program ends
        self.ended: list[Load] = []
        self.continued = False

    # what the reader is asked

    def take(self, at: int, line: str) -> list[Load]:
        """Take a line; return the loads that it ended."""
        self.go_on(line)
        self._program_of(line)
        for step in _STEPS:
            step(self, at, line)
        ended, self.ended = self.ended, []
        return ended

    def go_on(self, line: str) -> None:
        """Lengthen a command line that was broken with a backslash."""
        if self.continued and self.program.command:
            self.program.command = (self.program.command[:-1] + " " + line.strip())[:20000]
            self.continued = self.program.command.endswith("\\")

    def end(self) -> list[Load]:
        """The load that was read last."""
        self._finish()
        return self.ended

    # loads begin and end

    def _load(self, at: int) -> _Making:
        if self.now is None:
            self.now = _Making(at)
        return self.now

    def _begin(self, at: int) -> _Making:
        before = self.now
        if before is not None and before.announced and not before.buffers:
            self.now = _Making(before.line, theirs=before.theirs, settings=before.settings, announced=True)
            return self.now
        self._finish()
        self.now = _Making(at)
        return self.now

    def _finish(self) -> None:
        made, self.now = self.now, None
        if made is None:
            return
        self._settle(made)
        if not made.is_empty():
            self.ended.append(_load_of(made, self.program))

    def _settle(self, made: _Making) -> None:
        """Of what was said twice keep the more exact: buffers, then Ollama's lines, then the table."""
        for said in (made.theirs, made.table):
            known = {(b.device, b.kind) for b in made.buffers}
            made.buffers += [b for b in said if (b.device, b.kind) not in known]
        made.theirs, made.table = [], []

    # lines

    def _program_of(self, line: str) -> None:
        ours = self.program
        for pattern, name in _PROGRAMS:
            found = pattern.search(line)
            if found and (name in _STRONG or not ours.name):
                if ours.name != "ollama":
                    ours.name = name
                if "v" in pattern.groupindex:
                    ours.version = found["v"]
        if "source=" in line and "msg=" in line and "level=" in line:
            ours.name = "ollama"
        if (
            ours.name in ("", "ollama")
            and (version := ollama.version_of(line))
            and "llama" in (ours.name or line.lower())
        ):
            ours.name, ours.build = "ollama", f"ollama@{version}"
        if found := _BINDING.search(line):
            ours.name, ours.version, ours.build = "llama-cpp-python", found[1], f"llama-cpp-python@{found[1]}"
        if "@" in ours.build:
            return
        for pattern in p.BUILDS:
            if found := pattern.search(line):
                ours.build = f"b{int(found['n'])}" if int(found["n"]) else found["commit"] or ""
                return

    def begins(self, at: int, line: str) -> None:
        """What says that a model is loaded anew."""
        if found := p.META.search(line):
            if self.now is None or self.now.facts or self.now.keys or not self.now.is_empty():
                self._begin(at)
            self._load(at).facts["n_tensors"] = int(found[1])
        elif found := p.COMMAND.search(line):
            if self.now is not None and not self.now.is_empty():
                self._finish()
            self.program.command = found["command"].strip().strip("`")
            self.program.slots = 0
            self.continued = line.endswith("\\")
            if self.program.name not in _STRONG:
                self.program.name = found["program"]
        elif (
            line.lstrip().startswith(("main: build =", "build: "))
            and self.now is not None
            and self.now.has(COMPUTE)
        ):
            self._finish()

    def device(self, at: int, line: str) -> None:
        """Cards, as backends and the loader name them."""
        ours = self.program.devices
        if "ggml_cuda_init" in line and "found" in line:
            ours.clear()
            ours["?"] = Device("ROCm" if "ROCm" in line else "CUDA")
        if found := p.CUDA_DEVICE.search(line):
            library = "ROCm" if found["gfx"] else "CUDA"
            total = re.search(r"VRAM: (\d{1,9}) MiB", found["more"])
            name = f"{library}{found['index']}"
            ours[name] = Device(
                name,
                found["title"],
                0,
                int(total[1]) << 20 if total else 0,
                found["cc"] or found["gfx"] or "",
            )
        elif found := p.VULKAN_DEVICE.search(line):
            name = f"Vulkan{found['index']}"
            ours[name] = Device(name, found["title"])
        elif found := p.SYCL_DEVICE.search(line):
            name = f"SYCL{found['index']}"
            ours[name] = Device(name, found["title"], 0, int(found["mib"]) << 20)
        if found := p.USING.search(line):
            name = found["name"]
            known = ours.get(name, Device(name))
            made = replace(known, title=found["title"] or known.title, free=int(found["free"]) << 20)
            if self.now is not None and not self.now.is_empty():
                self._begin(at)
            self._load(at).free[name] = ours[name] = made
        if len(ours) > 64:
            ours.clear()

    def fact(self, at: int, line: str) -> None:
        """What the model is."""
        if found := p.FACT.search(line):
            name, value = found["name"].strip(), found["value"].strip()
            name = _SPELT.get(name, name)
            if name == "arch" and self.now is not None and (self.now.has(MODEL) or "arch" in self.now.facts):
                self._begin(at)
            load = self._load(at)
            load.marks |= {m for m in ("print_info", "llm_load_print_meta") if m in line}
            load.marks |= {name} & {"n_embd_inp"}
            if name in _FACTS or name in _SPELT.values():
                load.facts.setdefault(name, _value(name, value))
        elif (found := p.KEY.search(line)) and len(self._load(at).keys) < _MOST:
            self._load(at).keys.setdefault(found["key"], _scalar(found["type"], found["value"].strip()))
        elif found := p.TENSORS.search(line):
            self._load(at).facts.setdefault("types", {})[found[1].lower()] = int(found[2])

    def placed(self, at: int, line: str) -> None:
        """Where layers and tensors went."""
        if found := p.OFFLOADED.search(line):
            if self.now is not None and self.now.offloaded and self.now.has(COMPUTE):
                self._begin(at)
            self._load(at).offloaded = (int(found[1]), int(found[2]))
        if (found := p.LAYER.search(line)) and len(self._load(at).layers) < _MOST:
            index, place = (found["a"], found["on"]) if found["a"] else (found["b"], found["at"])
            self._load(at).layers.setdefault(int(index), place.rstrip(","))
        if (found := p.MOVED.search(line)) and len(self._load(at).moved) < _MOST:
            self._load(at).moved[found["name"]] = found["to"]

    def setting(self, at: int, line: str) -> None:
        """Settings of a context."""
        for found in p.SETTING.finditer(line):
            name, value = found["name"], found["value"]
            load = self._load(at)
            if name in ("n_seq_max", "n_ctx") and name in load.settings and load.has(COMPUTE):
                load.contexts += 1
                load.reserved = False
                if load.contexts > 64:
                    return
                load.settings = {**load.settings, f"#{load.contexts}": True, name: load.settings[name]}
            if load.contexts:
                continue
            load.marks |= {
                m for m in (line[: found.end()].rpartition(":")[0].split()[-1], name) if m in _MARKED
            }
            if name == "flash_attn" and value == "auto":
                load.marks.add("flash_attn=auto")
            load.settings.setdefault(name, _setting(value))
        anew = "constructing llama_context" in line and self.now is not None and self.now.has(COMPUTE)
        if self.now is not None and (anew or (_DRAFT.search(line) and self.now.has(CONTEXT))):
            self.now.contexts += 1
        if slots := p.SLOTS.search(line):
            self.program.slots = int(slots["slots"])
            if self.now is not None:
                self.now.settings.setdefault("n_slots", int(slots["slots"]))
        if (flash := p.FA_FOUND.search(line)) and self.now is not None and not self.now.contexts:
            self.now.settings["flash_attn_found"] = "on" if flash[1] == "enabled" else "off"
        if any(word in line for word in _CACHE):
            self._cache(self._load(at), line)

    def _cache(self, load: _Making, line: str) -> None:
        if load.contexts:
            return
        if args := p.KV_ARGS.search(line):
            load.settings.setdefault("type_k", args["k"].lower())
            load.settings.setdefault("type_v", args["v"].lower())
            if args["offload"] == "0":
                load.settings["offload_kqv"] = False
        elif (found := p.KV_TYPES.search(line)) and "R (" not in line:
            load.settings.setdefault("type_k", found["k"].lower())
            load.settings.setdefault("type_v", (found["v"] or found["k"]).lower())
        if found := p.CELLS.search(line):
            load.marks |= {found["by"]} & _MARKED
            cells = load.settings.setdefault("caches", [])
            if len(cells) < 16:
                cells.append((found["by"], int(found["cells"]), int(found["layers"]), int(found["seqs"])))
        if "full-size SWA cache" in line:
            load.settings["swa_full"] = True
        if "pipeline parallelism enabled" in line:
            load.settings["pipeline"] = True

    def buffer(self, at: int, line: str) -> None:
        """Buffers, wherever a line has them."""
        if "sched_reserve: reserving" in line and self.now is not None and self.now.has(COMPUTE):
            self.now.reserved = True
        for found in p.BUFFER.finditer(line):
            n, less, more = p.size_step(found["size"], found["unit"])
            self._buffer(at, found["by"], found["place"], found["kind"], Size(max(0, n - less), n + more))

    def _buffer(self, at: int, by: str, place: str, said: str | None, size: Size) -> None:
        load = self._load(at)
        if _PROJECTOR.search(by) or (said == "LoRA"):
            what = "an adapter" if said == "LoRA" else "a projector"
            load.beside.append(Beside(what, place, size, _KINDS.get(said, "")))
            return
        kind = _KINDS.get(said, CONTEXT)
        if said is None and "load_tensors" not in by:
            return
        made = Buffer(place, kind, size)
        known = any(b.place == place and b.kind == kind for b in load.buffers)
        if kind == MODEL and load.has(COMPUTE):
            load = self._begin(at)
        elif load.contexts:
            load.beside.append(Beside("another context", place, size, kind))
            return
        elif kind == COMPUTE and (load.reserved or known):
            load.notes["buffers were reserved more than once; the first reservation counts"] = None
            load.reserved = True
            return
        elif kind == CONTEXT and load.has(COMPUTE) and by != "init":
            load.beside.append(Beside("another context", place, size, kind))
            return
        load.marks |= {by} & _MARKED
        if len(load.buffers) < _MOST_BUFFERS:
            load.buffers.append(made)

    def table(self, at: int, line: str) -> None:
        """The tables of a program that ends, and of llama-fit-params."""
        found = p.BREAKDOWN.search(line) or p.FIT_ROW.search(line)
        if not found:
            return
        load, mib = self._load(at), 1 << 20
        if "total" in found.re.groupindex and found["total"] and found["name"] not in load.free:
            free = int(found["free"]) * mib
            load.free[found["name"]] = Device(
                found["name"], found["title"] or "", free, int(found["total"]) * mib
            )
        place = "CPU" if found["name"].lower() == "host" else found["name"]
        for kind in (MODEL, CONTEXT, COMPUTE):
            n = int(found[kind]) * mib
            if len(load.table) < _MOST_BUFFERS:
                load.table.append(Buffer(place, kind, Size(n, n + mib - 1)))

    def theirs(self, at: int, line: str) -> None:
        """Ollama's own lines."""
        words = ollama.words_of(line)
        msg = words.get("msg", "")
        if not msg:
            return
        if (
            msg == "inference compute"
            and (card := ollama.device_of(words))
            and len(self.program.devices) < 64
        ):
            name = card.name
            while name in self.program.devices and self.program.devices[name].title != card.title:
                name = re.sub(r"\d*$", lambda m: str(int(m[0] or 0) + 1), name, count=1)
            self.program.devices[name] = replace(card, name=name)
        elif msg.startswith(("starting runner", "starting llama server", "starting llama-server")):
            if self.now is not None and not self.now.is_empty():
                self._finish()
            if "cmd" in words:
                self.program.command = words["cmd"]
                own = "--ollama-engine" in words["cmd"]
                self._load(at).own_runner, self._load(at).announced = own, not own
        elif msg == "load" and "request" in words:
            given, layers = ollama.request_of(words["request"])
            load = self._load(at)
            load.settings.update(given)
            load.own_runner = True
            if layers:
                load.settings["gpu_layers"] = [n for _, n in layers]
        elif msg in ollama.KINDS_OF and (size := ollama.size_of(words.get("size", ""))):
            load = self._load(at)
            made = Buffer(words.get("device", "?"), ollama.KINDS_OF[msg], size)
            load.theirs = [b for b in load.theirs if (b.place, b.kind) != (made.place, made.kind)] + [made]
        elif words.get("architecture") and words.get("file_type"):
            facts = self._load(at).facts
            facts.setdefault("arch", words["architecture"])
            facts.setdefault("file_type", words["file_type"])
            if words.get("num_tensors", "").isdecimal():
                facts.setdefault("n_tensors", int(words["num_tensors"]))


_Step = Callable[[_Reader, int, str], None]
_STEPS: Final[tuple[_Step, ...]] = (
    _Reader.begins, _Reader.device, _Reader.fact, _Reader.placed, _Reader.setting, _Reader.buffer, _Reader.table, _Reader.theirs,
)  # fmt: skip
_MARKED: Final = frozenset(
    [
        "llm_load_tensors",
        "llama_new_context_with_model",
        "llama_init_from_model",
        "llama_context",
        "llama_kv_cache_init",
        "llama_kv_cache_unified",
        "llama_kv_cache_unified_iswa",
        "llama_kv_cache",
        "n_ctx_per_seq",
        "kv_unified",
        "n_ctx_seq",
        "sched_reserve",
        "llama_memory_recurrent",
        "n_outputs_max",
    ]
)


def _load_of(made: _Making, program: _Program) -> Load:
    """What was made, as a value."""
    settings = {k: v for k, v in made.settings.items() if not k.startswith("#")}
    if program.slots:
        settings.setdefault("n_slots", program.slots)
    known = {**{k: v for k, v in program.devices.items() if k != "?"}, **made.free}
    weights = [b for b in made.buffers if b.kind == MODEL]
    projected = bool(weights) and not any(b.size.middle > _NOTHING for b in weights)
    if projected:  # without memory weights and caches have no bytes, compute buffers are as they would be
        made.buffers = [b for b in made.buffers if b.size.middle > _NOTHING]
    return Load(
        line=made.line,
        program=program.name,
        build=program.build,
        version=program.version,
        facts=MappingProxyType(made.facts),
        keys=MappingProxyType(made.keys),
        settings=MappingProxyType(settings),
        devices=tuple(known.values()),
        buffers=tuple(made.buffers),
        beside=tuple(made.beside[:_MOST_BUFFERS]),
        offloaded=made.offloaded,
        layers=MappingProxyType(made.layers),
        moved=tuple(made.moved.items()),
        command=program.command,
        marks=frozenset(made.marks),
        own_runner=made.own_runner and not any("llama" in m or "sched" in m for m in made.marks),
        projected=projected,
        notes=tuple(made.notes),
    )


def _value(name: str, text: str) -> Any:
    """A fact: a number, a list of numbers ("[8, 8, 4]"), bytes and counts in words, or words."""
    if name in ("file_size", "n_params"):
        found = re.match(r"([\d.,]+) ?([KMGT]i?B?|B)\b", text)
        if not found:
            return text[:40]
        if name == "n_params":
            return round(
                p.number(found[1]) * {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12, "G": 1e9}.get(found[2][0], 1)
            )
        n, less, more = p.size_step(found[1], found[2] if found[2] in p.units else "B")
        return Size(max(0, n - less), n + more)
    if text.startswith("["):
        return [int(x) for x in re.findall(r"\d{1,9}", text)[:1024]]
    if re.fullmatch(r"-?\d{1,15}", text):
        return int(text)
    return text[:80]


def _scalar(kind: str, text: str) -> Any:
    try:
        if kind == "str":
            return text[:200]
        if kind == "bool":
            return text == "true"
        return float(text) if kind.startswith("f") else int(text)
    except ValueError:
        return text[:40]


def _setting(value: str) -> Any:
    low = value.lower()
    if re.fullmatch(r"-?\d{1,12}", low):
        return int(low)
    return {"true": True, "false": False, "enabled": "on", "disabled": "off"}.get(low, low[:40])
