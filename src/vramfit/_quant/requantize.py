"""Rewrite a model as llama.cpp's quantizer would: the same tensors, other types, hence exact bytes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from .._base.errors import EngineRefusal, SettingsError, VramfitError
from .._coerce import MAX_BYTES, AnyModel, count, flag, model_of, shown, word
from .._ggml.types import BY_NAME, TensorType, tensor_type
from .._llama.model import Model, Tensor
from .file_types import FileType
from .file_types import file_type as find_file_type
from .rules import Category, Traits, allows_quantization, category, choose, layer_of, traits

__all__ = ["bits_per_weight", "file_bytes", "needs_imatrix", "parse_tensor_types", "recipe", "requantize"]

ALIGNMENT: Final = 32  # GGUF_DEFAULT_ALIGNMENT, which the quantizer always writes (llama-quant.cpp:1013)


@dataclass(frozen=True, slots=True)
class _Request:
    """What a caller asks of the quantizer, checked."""

    file_type: FileType
    imatrix: bool
    output: TensorType | None
    token_embedding: TensorType | None
    overrides: tuple[tuple[re.Pattern[str], TensorType], ...]
    pure: bool
    leave_output_tensor: bool

    def override(self, name: str) -> TensorType | None:
        """Find the type of the first pattern that is found anywhere in `name` (regex_search)."""
        return next((kind for pattern, kind in self.overrides if pattern.search(name)), None)


def requantize(
    model: AnyModel,
    file_type: str | int,
    *,
    imatrix: bool = False,
    output_tensor_type: str | None = None,
    token_embedding_type: str | None = None,
    tensor_types: Sequence[tuple[str, str]] = (),
    pure: bool = False,
    leave_output_tensor: bool = False,
    keep_split: bool = False,
    dry_run: bool = True,
) -> Model:
    """Give `model` the tensor types that `llama-quantize MODEL file_type` would choose.

    The source's own types do not matter, except for tensors that are never quantized: those keep
    theirs. `--allow-requantize` is taken as given. Parameters are llama-quantize's options:

    - `imatrix`: an importance matrix is given, for every tensor that needs one.
    - `output_tensor_type`, `token_embedding_type`: ggml types, by name. They are used as they are:
      a row that the type's block does not divide is an `EngineRefusal`.
    - `tensor_types`: pairs of a regular expression, searched in the tensor's name, and a ggml type. The
      first that matches wins over the mix of the file type; unquantized file types ignore them.
    - `pure`: every tensor gets the base type. `leave_output_tensor`: output.weight stays as it is.
    - `keep_split`: tensors are visited in the order of the file rather than of their layers.
    - `dry_run`: as with the tool, types that need an importance matrix are chosen even when none is given
      (see `needs_imatrix`); with `dry_run=False` that is an `EngineRefusal`.

    Shapes, names and order do not change. Raises `SettingsError` for an unknown file type, an unknown
    tensor type or a malformed pattern. Source: `llama_tensor_get_type` (llama-quant.cpp:717-773).
    """
    model = model_of(model)
    keep_split, dry_run = flag("keep_split", keep_split), flag("dry_run", dry_run)
    request = _Request(
        file_type=_file_type(file_type),
        imatrix=flag("imatrix", imatrix),
        output=_optional("output_tensor_type", output_tensor_type),
        token_embedding=_optional("token_embedding_type", token_embedding_type),
        overrides=_overrides(tensor_types),
        pure=flag("pure", pure),
        leave_output_tensor=flag("leave_output_tensor", leave_output_tensor),
    )
    if request.file_type.copies:
        return model
    result = _with_tensors(model, _retyped(model, request, keep_split), request.file_type)
    if not (dry_run or imatrix):
        _refuse_without_imatrix(result)
    return result


def _file_type(file_type: str | int) -> FileType:
    """Find a file type by its name or its number."""
    number = isinstance(file_type, int) and not isinstance(file_type, bool)
    return find_file_type(str(file_type) if number else word("file_type", file_type))


def _with_tensors(model: Model, tensors: dict[str, Tensor], kind: FileType) -> Model:
    """Put these tensors, by name, in place of the model's own."""
    renewed = tuple(tensors[t.name] for t in model.tensors)
    weights = tuple(w._replace(tensor=tensors.get(w.tensor.name, w.tensor)) for w in model.weights)
    return replace(model, tensors=renewed, weights=weights, file_type=kind.name)


def _retyped(model: Model, request: _Request, keep_split: bool) -> dict[str, Tensor]:
    """Give every tensor of `model` its new type; returns them by name.

    Rules count tensors as they come: by layer, then by name (llama-model-loader.h:54-65), unless
    `keep_split` keeps the order of the file (llama-quant.cpp:1073-1081).
    """
    known = traits(model, request.imatrix)
    order = model.tensors if keep_split else sorted(model.tensors, key=lambda t: (layer_of(t.name), t.name))
    seen: Counter[Category] = Counter()
    result = {}
    for tensor in order:
        kind = _type_of(tensor, request, known, seen)
        if kind != tensor.type:
            _check_convertible(tensor, kind)
        result[tensor.name] = replace(tensor, type=kind)
    return result


def _type_of(tensor: Tensor, request: _Request, known: Traits, seen: Counter[Category]) -> TensorType:
    """Choose the type of one tensor; `seen` counts the tensors that the mix has decided (llama-quant.cpp:717-773)."""
    what = category(tensor.name)
    kept = request.leave_output_tensor and what is Category.OUTPUT
    if kept or not allows_quantization(tensor, known):
        return tensor.type
    manual = request.override(tensor.name)
    # The per-layer embeddings are a large table of their own, so an override may name them.
    named = manual and tensor.name == "per_layer_token_embd.weight"
    if what is Category.TOKEN_EMBD and request.token_embedding and not named:
        return request.token_embedding
    if what is Category.OUTPUT and request.output:
        return request.output
    base = request.file_type.base
    if not base.is_quantized:
        return base
    if manual:
        return _fallback(tensor, manual)
    if request.pure:
        return _fallback(tensor, base)
    return _fallback(tensor, _mixed(tensor, what, request, known, seen))


def _mixed(
    tensor: Tensor, what: Category, request: _Request, known: Traits, seen: Counter[Category]
) -> TensorType:
    """Choose the type by the mix of the file type; tied embeddings follow `output_tensor_type` here."""
    base = request.file_type.base
    chosen = choose(request.file_type.name, base.name, base.block, tensor, seen[what], known)
    seen[what] += 1
    is_tied = what is Category.TOKEN_EMBD and known.is_tied
    return request.output if is_tied and request.output else BY_NAME[chosen]


# What a tensor gets whose rows the block of its type does not divide (llama-quant.cpp:401-427).
_FALLBACK: Final = {
    **dict.fromkeys(
        ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_xs"), BY_NAME["iq4_nl"]
    ),
    **dict.fromkeys(("q2_0", "q2_K", "q3_K", "tq1_0", "tq2_0"), BY_NAME["q4_0"]),
    "q4_K": BY_NAME["q5_0"],
    "q5_K": BY_NAME["q5_1"],
    "q6_K": BY_NAME["q8_0"],
}


def _fallback(tensor: Tensor, kind: TensorType) -> TensorType:
    """Return `kind`, or a type that divides the tensor's rows, in the end f16 (llama-quant.cpp:390-443)."""
    n = tensor.shape[0]
    if n % kind.block == 0:
        return kind
    smaller = _FALLBACK.get(kind.name, kind)
    if smaller is kind and kind.block > 32:
        raise EngineRefusal(
            f"{tensor.name}: rows of {n} elements are not a multiple of the {kind.block} of a {kind.name} block, and the "
            f"quantizer has no type to fall back to; give this tensor another with tensor_types"
        )
    return smaller if n % smaller.block == 0 else BY_NAME["f16"]


# Types that the quantizer can neither read nor write (ggml_quantize_chunk, ggml.c:8067-8142).
_INCONVERTIBLE: Final = frozenset({"q8_1", "q8_K", "i8", "i16", "i32", "i64", "f64"})


def _check_convertible(tensor: Tensor, kind: TensorType) -> None:
    """Raise `EngineRefusal` where the quantizer would stop at converting `tensor` to `kind`."""
    for name in (tensor.type.name, kind.name):
        if name in _INCONVERTIBLE:
            raise EngineRefusal(
                f"{tensor.name}: the quantizer cannot convert {tensor.type.name} to {kind.name}; "
                f"choose another type than {name}"
            )
    if tensor.shape[0] % kind.block:
        # ggml asserts it when the type is written (gguf.cpp:1434).
        raise EngineRefusal(
            f"{tensor.name}: rows of {tensor.shape[0]} elements are not a multiple of the {kind.block} of a {kind.name} "
            f"block, and a type that is asked for by option has no fallback; choose one with a smaller block"
        )


def _ggml_type(option: str, name: str) -> TensorType:
    """Find the tensor type that `option` names."""
    try:
        return tensor_type(word(option, name))
    except VramfitError as error:
        raise SettingsError(f"{option}={name!r}: {error}") from error


def _optional(option: str, name: str | None) -> TensorType | None:
    """Find the tensor type that `option` names, if it names one."""
    return None if name is None else _ggml_type(option, name)


def _overrides(pairs: Sequence[tuple[str, str]]) -> tuple[tuple[re.Pattern[str], TensorType], ...]:
    """Compile `tensor_types`; llama-quantize lowers the patterns (quantize.cpp:335-336), and so do we."""
    if isinstance(pairs, str) or not isinstance(pairs, Sequence):
        raise SettingsError(f"tensor_types={shown(pairs)}: give pairs of a pattern and a type")
    result = []
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise SettingsError(f"tensor_types: {shown(pair)} is not a pair of a pattern and a type")
        pattern, name = word("tensor_types", pair[0]), pair[1]
        try:
            compiled = re.compile(pattern.lower(), re.ASCII)
        except (re.error, RecursionError, OverflowError) as error:
            raise SettingsError(f"tensor_types: {pattern!r} is not a regular expression: {error}") from error
        result.append((compiled, _ggml_type("tensor_types", name)))
    return tuple(result)


def parse_tensor_types(text: str) -> tuple[tuple[str, str], ...]:
    """Read overrides as `--tensor-type` and `--tensor-type-file` write them: `pattern=type`, apart by white space.

    Raises `SettingsError` for an entry without a pattern or a type (quantize.cpp:318-365).
    """
    text = word("text", text)
    result = []
    for entry in text.split():
        pattern, _, name = entry.partition("=")
        if not pattern or not name:
            raise SettingsError(f"tensor_types: {entry!r} is not of the form pattern=type, as in attn_v=q8_0")
        _ggml_type("tensor_types", name)
        result.append((pattern, name))
    return tuple(result)


def recipe(model: AnyModel) -> tuple[tuple[str, str], ...]:
    """Write the types of `model` as `tensor_types`: one pattern for each tensor that the quantizer may change.

    This is how a published mix is carried over: take the recipe from the header of a file that has it,
    and give it to `requantize` with any quantized file type and a model of the same layers.
    """
    model = model_of(model)
    known = traits(model, imatrix=False)
    allowed = (t for t in model.tensors if allows_quantization(t, known))
    return tuple((f"^{re.escape(t.name)}$", t.type.name) for t in allowed)


# Types that are garbage without an importance matrix (llama-quant.cpp:856-875).
_WANTS_IMATRIX: Final = frozenset({"iq3_xxs", "iq2_xxs", "iq2_xs", "iq2_s", "iq1_m", "iq1_s"})


def needs_imatrix(model: AnyModel) -> tuple[str, ...]:
    """List the tensors for which the quantizer wants an importance matrix to write `model`.

    `model` is what `requantize` returned; empty when it can be made without a matrix. Embeddings
    and the output matrix never count (llama-quant.cpp:856-875).
    """
    model = model_of(model)
    types = _WANTS_IMATRIX | {"q2_K"} if model.file_type == "Q2_K_S" else _WANTS_IMATRIX
    exempt = (Category.OUTPUT, Category.TOKEN_EMBD)
    return tuple(t.name for t in model.tensors if t.type.name in types and category(t.name) not in exempt)


def _refuse_without_imatrix(model: Model) -> None:
    """Raise `EngineRefusal` as llama-quant.cpp:1133-1144 does."""
    names = needs_imatrix(model)
    if names:
        raise EngineRefusal(
            f"{model.file_type} requires an importance matrix: {names[0]} and {len(names) - 1} other tensors would "
            f"be unusable without one; set imatrix, or choose a larger file type"
        )


def file_bytes(model: AnyModel, *, header_bytes: int = 0, alignment: int = ALIGNMENT) -> int:
    """Count the bytes of a file with the tensors of `model`: each padded to `alignment`, behind `header_bytes`.

    The tensor data is exact. A header's size follows from metadata that a `Model` does not keep, so that
    it is counted only as given: quantizing leaves the source's header (its padding included) at its size,
    but for keys that it adds where they are absent (`general.file_type`, `general.quantization_version`,
    `quantize.imatrix.*`) and the `split.*` keys that it removes. Source: llama-quant.cpp:1013-1031, 1349.
    """
    model = model_of(model)
    header_bytes = count("header_bytes", header_bytes, most=MAX_BYTES)
    alignment = count("alignment", alignment, least=1)
    return header_bytes + sum(-(-t.n_bytes // alignment) * alignment for t in model.tensors)


def bits_per_weight(model: AnyModel) -> float:
    """Divide the bits of tensor data by the elements, as llama-quantize prints it (llama-quant.cpp:1364); for display."""
    model = model_of(model)
    return model.tensor_bytes * 8 / model.n_params if model.n_params else 0.0
