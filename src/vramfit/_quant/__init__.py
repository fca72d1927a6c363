"""Size quantizations that nobody has made: a file type gives every tensor its type, hence its bytes.

In: a `Model`, from a file of any type. Out: a `Model` with the types that llama.cpp's quantizer would choose.
`file_types` is what llama-quantize offers, `rules` its choice for one tensor, `requantize` the whole.
"""

from __future__ import annotations

from .file_types import FILE_TYPES, FileType, file_type
from .requantize import bits_per_weight, file_bytes, needs_imatrix, parse_tensor_types, recipe, requantize

__all__ = [
    "FILE_TYPES",
    "FileType",
    "bits_per_weight",
    "file_bytes",
    "file_type",
    "needs_imatrix",
    "parse_tensor_types",
    "recipe",
    "requantize",
]
