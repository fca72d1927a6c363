"""The printed lines that matter, of every year since 2024, as patterns; what they are used for, `reading` says.

Functions of llama.cpp have changed their names (`llm_load_tensors`, `load_tensors`), what they print hardly: so patterns
look for what is printed, wherever it stands in a line. Source: llama.cpp of 2024-01 to 2026-10, ik_llama.cpp, koboldcpp.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = [
    "BREAKDOWN", "BUFFER", "BUILDS", "CELLS", "COMMAND", "CUDA_DEVICE", "FACT", "FA_FOUND", "FIT_ROW", "KEY",
    "KV_ARGS", "KV_TYPES", "LAYER", "META", "MOVED", "OFFLOADED", "SETTING", "SLOTS", "SPLIT_ROW", "SYCL_DEVICE", "TENSORS",
    "USING", "VULKAN_DEVICE", "number", "size_step", "units",
]  # fmt: skip

units: Final = {"B": 0, "KiB": 10, "KB": 10, "MiB": 20, "MB": 20, "GiB": 30, "GB": 30, "TiB": 40, "TB": 40}
_SIZE: Final = r"(?P<size>\d{1,12}(?:[.,]\d{1,6})?)\s*(?P<unit>[KMGT]iB|[KMGT]B\b|B\b)"

BUFFER: Final = re.compile(
    r"(?P<by>\w{1,60})(?:\[\w{1,20}\])?\s{0,4}:\s{1,24}(?P<place>[A-Za-z][\w.\-]{0,60}(?:\[[^\]]{1,80}\])?)\s{1,24}"
    rf"(?:(?P<kind>model|KV|RS|compute|output|LoRA|DSV4 \w+ state|\w+ state)\s+)?buffer size\s*=\s*{_SIZE}"
)
SETTING: Final = re.compile(
    r"(?<!\w)llama_\w{1,60}:\s{1,24}(?P<name>n_seq_max|n_ctx|n_ctx_seq|n_ctx_per_seq|n_batch|n_ubatch|causal_attn|flash_attn|kv_unified|n_outputs_max"
    r"|n_rs_seq|offload_kqv|swa_full|mla_attn|attn_max_b|fused_moe|graph_reuse|ser)\s*=\s*(?P<value>[\w.\-]+)"
)
FACT: Final = re.compile(
    r"(?:print_info|llm_load_print_meta|load_hparams):\s+(?P<name>[a-z][\w ]{1,24}?)\s*=\s(?P<value>.{1,4000})"
)
KEY: Final = re.compile(
    r"- kv\s+\d{1,9}:\s+(?P<key>[\w.\-]{3,80})\s+(?P<type>u8|i8|u16|i16|u32|i32|f32|u64|i64|f64|bool|str)\s+= (?P<value>.{0,200})"
)
META: Final = re.compile(
    r"llama_model_loader: loaded meta data with \d{1,9} key-value pairs and (\d{1,9}) tensors"
)
TENSORS: Final = re.compile(r"- type\s+(\w{2,10}):\s+(\d{1,9}) tensors")
OFFLOADED: Final = re.compile(r"offloaded (\d{1,4})/(\d{1,4}) layers to GPU")
CELLS: Final = re.compile(
    r"(?<!\w)(?P<by>\w{1,60}): size =\s+[\d.,]+ MiB \(\s*(?P<cells>\d{1,9}) cells,\s+(?P<layers>\d{1,9}) layers,\s+(?P<seqs>\d{1,9})(?:/\d{1,9})? seqs"
)
KV_TYPES: Final = re.compile(r"(?:\bK|c\^KV) \((?P<k>\w{2,8})\):.{0,24}?(?:\bV \((?P<v>\w{2,8})\)|$|kv\^T)")
KV_ARGS: Final = re.compile(
    r"kv_size = (?P<cells>\d{1,9}), offload = (?P<offload>\d), type_k = '(?P<k>\w+)', type_v = '(?P<v>\w+)'"
)
FA_FOUND: Final = re.compile(
    r"Flash Attention (?:was auto, set to |not supported, set to )?(enabled|disabled)"
)
LAYER: Final = re.compile(
    r"(?:load_tensors: layer\s+(?P<a>\d{1,9}) assigned to device (?P<on>[\w.\[\]:]+)"
    r"|(?:llama_kv_cache\w*|llama_memory_\w+|init):? layer\s+(?P<b>\d{1,9}):.{0,80}? dev = (?P<at>[\w.\[\]:]+))"
)
MOVED: Final = re.compile(
    r"[Tt]ensor (?P<name>[\w.\-]{3,90}) (?:\([^)]{0,40}\) )?buffer type overrid?den to (?P<to>\S{2,40})"
)
SPLIT_ROW: Final = re.compile(r"\w+_Split (?:model )?buffer size")
USING: Final = re.compile(
    r"using device (?P<name>[A-Za-z]\w*(?:\[\S+?\])?) \((?P<title>[^()]{0,80}(?:\([^()]{0,40}\)[^()]{0,40}){0,3})\)(?: \([^()]*\))? - (?P<free>\d{1,9}) MiB free"
)
CUDA_DEVICE: Final = re.compile(
    r"Device (?P<index>\d{1,9}): (?P<title>[^,]{2,80}), (?:compute capability (?P<cc>\d{1,9}\.\d)|(?P<gfx>gfx[0-9a-f]{3,5}))[^,]*(?P<more>.{0,200})"
)
VULKAN_DEVICE: Final = re.compile(r"ggml_vulkan: (?P<index>\d{1,9}) = (?P<title>.{2,80}?) \([^()]*\) \| uma")
SYCL_DEVICE: Final = re.compile(
    r"\|\s*(?P<index>\d{1,9})\|\s*\[(?:level_zero|opencl):gpu:\d{1,9}\]\|\s*(?P<title>[^|]{2,60}?)\s*\|.*?\|\s*(?P<mib>\d{1,9})M\|"
)
SLOTS: Final = re.compile(
    r"initializing,? ?(?:slots, )?n_slots = (?P<slots>\d{1,9})(?:, n_ctx_slot = (?P<each>\d{1,9}))?(?:, kv_unified = '?(?P<kvu>true|false))?"
)
BREAKDOWN: Final = re.compile(
    r"memory_breakdown_print: \|\s+- (?P<name>\S+)(?: \((?P<title>.{0,80}?)\))?\s+\|(?:\s*(?P<total>\d{1,9})\s+=\s*(?P<free>\d{1,9})\s+\+\s+\()?\s*"
    r"(?P<self>\d{1,9})\s+=\s*(?P<model>\d{1,9})\s+\+\s*(?P<context>\d{1,9})\s+\+\s*(?P<compute>\d{1,9})"
)
FIT_ROW: Final = re.compile(
    r"^\s*(?P<name>(?:CUDA|ROCm|Vulkan|SYCL|MTL|Metal|MUSA|CANN|RPC)\S{0,40}|Host) (?P<model>\d{1,9}) (?P<context>\d{1,9}) (?P<compute>\d{1,9})\s*$"
)
# How builds are named: most particular first.
BUILDS: Final = (
    re.compile(r"\bbuild(?:_info)?\s*[:=]\s*b?(?P<n>\d{3,6})\s*[(\-]\s*(?P<commit>[0-9a-f]{7,40})"),
    re.compile(r"\bversion: (?P<n>\d{3,6}) \((?P<commit>[0-9a-f]{7,40})\)"),
    re.compile(r"\bversion: \S{1,20} \(build (?P<n>\d{3,6}), commit (?P<commit>[0-9a-f]{7,40})\)"),
    re.compile(r'"(?:build_info|system_fingerprint)"\s*:\s*"b(?P<n>\d{3,6})-(?P<commit>[0-9a-f]{7,40})"'),
    re.compile(r'\bbuild info\b.{0,120}?\bbuild=(?P<n>\d{3,6}) commit="?(?P<commit>[0-9a-f]{7,40})'),
    re.compile(
        r"^\W{0,4}(?:Name and Version\W{1,9})?b(?P<n>\d{4,6})(?:-(?P<commit>[0-9a-f]{7,40}))?\W{0,4}$"
    ),
)
COMMAND: Final = re.compile(
    r"(?:^|[\s\"'`/\\>$#])(?P<command>(?P<program>llama-server|llama-cli|llama-bench|llama-perplexity|llama-batched-bench|llama-completion|llama-run)(?:\.exe)?[\"']?\s+-.{0,20000})"
)


def number(text: str) -> float:
    """The number of a pattern's `size`; some programs print it as their language writes it."""
    return float(text.replace(",", "."))


def size_step(text: str, unit: str) -> tuple[int, int, int]:
    """Bytes of a printed size: the figure, and by how much the true one may be less or more."""
    scale = 1 << units[unit]
    digits = len(re.split(r"[.,]", text)[1]) if re.search(r"[.,]", text) else 0
    half = scale // (2 * 10**digits) + 1
    return round(number(text) * scale), half, half
