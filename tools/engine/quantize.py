"""The types that the engine's quantizer chooses, from a header alone.

    types("x.gguf", 15)          # Q4_K_M, by its number in `llama_ftype`
    types("x.gguf", 15, imatrix=True, patterns=[("attn_v", "q8_0")])

The quantizer counts without converting (`dry_run`) and says its choices in its log. It wants a file of full
length: the header is copied in front of a hole.
"""

from __future__ import annotations

import ctypes
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Sequence

from vramfit._gguf import parse

from .binding import engine
from .load import Refused, type_id

_ALL_TYPES = 256  # no type: the option is not given (GGML_TYPE_COUNT is the first such number)
_LINE = re.compile(r"^\[ *\d+/ *\d+\] (\S+) +- \[[^]]*\], type = +(\w+), size = [^(\n]*(?:\((\w+)\))?", re.M)
_Log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class _Override(ctypes.Structure):
    """`llama_model_tensor_override` (llama.h)."""

    _fields_ = [("pattern", ctypes.c_char_p), ("type", ctypes.c_int)]


class _Matrix(ctypes.Structure):
    """`llama_model_imatrix_data` (llama.h): the end of a list, when it has no name."""

    _fields_ = [("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("size", ctypes.c_size_t)]


class _Params(ctypes.Structure):
    """`llama_model_quantize_params` (llama.h)."""

    _fields_ = [
        *((name, ctypes.c_int) for name in ("nthread", "ftype", "output_type", "embedding_type")),
        *(
            (name, ctypes.c_bool)
            for name in ("allow_requantize", "output_tensor", "only_copy", "pure", "keep_split", "dry_run")
        ),
        ("imatrix", ctypes.POINTER(_Matrix)),
        ("kv_overrides", ctypes.c_void_p),
        ("tt_overrides", ctypes.POINTER(_Override)),
        ("prune_layers", ctypes.c_void_p),
        ("max_buf_size", ctypes.c_size_t),
    ]


def types(
    header: str | os.PathLike[str],
    file_type: int,
    *,
    imatrix: bool = False,
    pure: bool = False,
    patterns: Sequence[tuple[str, str]] = (),
    output: str = "",
    embeddings: str = "",
) -> dict[str, str]:
    """The type of every tensor of `header` as `file_type`. Raises Refused, with the engine's reason."""
    overrides = (_Override * (len(patterns) + 1))(
        *(_Override(p.encode(), type_id(kind.lower())) for p, kind in patterns)
    )
    params = _Params(
        1, file_type, type_id(output) if output else _ALL_TYPES, type_id(embeddings) if embeddings else _ALL_TYPES,
        allow_requantize=True, output_tensor=True, pure=pure, dry_run=True,
    )  # fmt: skip
    params.imatrix = (_Matrix * 1)() if imatrix else None
    params.tt_overrides = overrides if patterns else None
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.gguf"
        _lengthen(header, path)
        status, log = _run(path, params)
    if status:
        raise Refused(log.strip().rpartition("\n")[2])
    return {name: new or old for name, old, new in _LINE.findall(log)}


def _lengthen(header: str | os.PathLike[str], path: pathlib.Path) -> None:
    """A copy of `header` that is as long as a whole file: the data are a hole."""
    shutil.copyfile(header, path)
    found = parse(path.read_bytes())
    end = max(t.offset + t.n_bytes for t in found.tensors)
    os.truncate(path, found.data_offset + -(-end // 64) * 64)


def _run(path: pathlib.Path, params: _Params) -> tuple[int, str]:
    """What the quantizer returns, and what it writes to its log."""
    lines: list[bytes] = []
    lib = engine()
    note = _Log(lambda level, text, _: lines.append(text))
    before, data = ctypes.c_void_p(), ctypes.c_void_p()
    lib.llama_log_get(ctypes.byref(before), ctypes.byref(data))
    lib.llama_log_set(note, None)
    try:
        status = lib.llama_model_quantize(str(path).encode(), b"", ctypes.byref(params))
    finally:
        lib.llama_log_set(before, data)
    return status, b"".join(lines).decode(errors="replace")
