"""Settings as options: llama.cpp's own flag names, so that a command line people have can be pasted.

Source of names and values: common/arg.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Final, TypeVar

import click
from click.core import ParameterSource

from ..errors import SettingsError, VramfitError
from ..settings import CACHE_TYPES, EXPERTS, FLASH_ATTN, SPLIT_MODES, Settings
from ..units import parse_size

__all__ = ["EXIT_DOES_NOT_FIT", "for_engine", "settings_options", "size", "to_settings", "typed"]

EXIT_DOES_NOT_FIT: Final = 3

F = TypeVar("F", bound=Callable[..., Any])


def size(text: str) -> int:
    """Bytes of a size such as 24GiB or 512MiB; a bare number counts MiB."""
    try:
        return parse_size(text)
    except VramfitError as e:
        raise click.BadParameter(str(e)) from None


def layers(text: str) -> int:
    """A number of layers, or llama.cpp's `auto` and `all`: every layer, which is what we plan for."""
    if text in ("auto", "all"):
        return -1
    try:
        return int(text)
    except ValueError:
        raise click.BadParameter(f"{text!r}: give a number, `auto` or `all`") from None


_OPTIONS: Final = (
    click.option("-c", "--ctx-size", "--ctx", "n_ctx", type=int, default=0, metavar="N",
                 help="Ask about this context instead of the largest."),
    click.option("-b", "--batch-size", "n_batch", type=int, default=2048, show_default=True, metavar="N",
                 help="Logical batch."),
    click.option("-ub", "--ubatch-size", "n_ubatch", type=int, default=512, show_default=True, metavar="N",
                 help="Physical batch: what the compute buffers are sized for."),
    click.option("-np", "--parallel", "n_seq_max", type=int, default=1, show_default=True, metavar="N",
                 help="Slots. The context is shared among them."),
    click.option("-kvu/-no-kvu", "--kv-unified/--no-kv-unified", "kv_unified", default=False,
                 help="One cache for all slots."),
    click.option("--outputs", "n_outputs_max", type=int, default=None, metavar="N",
                 help="Logits kept of a batch: one a slot as llama-server does, 0 for the whole batch."),
    click.option("-fa", "--flash-attn", "flash_attn", type=click.Choice(FLASH_ATTN), default="auto",
                 show_default=True, help="Flash attention."),
    click.option("-ctk", "--cache-type-k", "type_k", type=click.Choice(CACHE_TYPES), default="f16",
                 show_default=True, help="Type of the K cache."),
    click.option("-ctv", "--cache-type-v", "type_v", type=click.Choice(CACHE_TYPES), default="f16",
                 show_default=True, help="Type of the V cache."),
    click.option("-ngl", "--gpu-layers", "--n-gpu-layers", "n_gpu_layers", type=layers, default="all",
                 metavar="N", help="Layers on the cards, the output layer included. Default: all."),
    click.option("-ts", "--tensor-split", "tensor_split", metavar="N0,N1,...",
                 help="Shares of the layers. Default: the best split."),
    click.option("-sm", "--split-mode", "split_mode", type=click.Choice(SPLIT_MODES), default="layer",
                 show_default=True, help="Spread layers over the cards, or use one."),
    click.option("-mg", "--main-gpu", "main_gpu", type=int, default=0, metavar="I",
                 help="The card to use with --split-mode none."),
    click.option("-ot", "--override-tensor", "overrides", multiple=True, metavar="REGEX=CPU",
                 help="Keep matching tensors on the host."),
    click.option("-cmoe", "--cpu-moe", "cpu_moe", is_flag=True, help="Keep all experts on the host."),
    click.option("-ncmoe", "--n-cpu-moe", "n_cpu_moe", type=int, default=0, metavar="N",
                 help="Keep the experts of the first N layers on the host."),
    click.option("-nkvo", "--no-kv-offload", "no_kv_offload", is_flag=True, help="Keep the cache on the host."),
    click.option("--no-op-offload", "no_op_offload", is_flag=True,
                 help="Leave operations on host weights to the host."),
    click.option("--swa-full", "swa_full", is_flag=True, help="Full-size cache for sliding-window layers."),
    click.option("--embeddings", "--embedding", "embeddings", is_flag=True, help="Embedding mode."),
)  # fmt: skip


def settings_options(command: F) -> F:
    """Add the options that make a `Settings`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def to_settings(options: dict[str, Any]) -> Settings:
    """`Settings` from the values of `settings_options`; takes them out of `options`."""
    take = options.pop
    patterns = [_host_pattern(text) for group in take("overrides") for text in group.split(",")]
    if take("cpu_moe"):
        patterns.append(EXPERTS)
    patterns += [rf"blk\.{i}{EXPERTS}" for i in range(take("n_cpu_moe"))]
    n_seq_max, outputs = take("n_seq_max"), take("n_outputs_max")
    return Settings(
        n_seq_max=n_seq_max,
        n_outputs_max=n_seq_max if outputs is None else outputs,
        tensor_split=_shares(take("tensor_split")),
        cpu_tensors=tuple(patterns),
        offload_kqv=not take("no_kv_offload"),
        op_offload=not take("no_op_offload"),
        **{name: take(name) for name in _SAME_NAME},
    )


_SAME_NAME: Final = (
    "n_ctx",
    "n_batch",
    "n_ubatch",
    "kv_unified",
    "flash_attn",
    "type_k",
    "type_v",
    "n_gpu_layers",
    "split_mode",
    "main_gpu",
    "swa_full",
    "embeddings",
)


def for_engine(settings: Settings, engine: str) -> Settings:
    """`settings` with the engine's defaults for every option that was not typed.

    Raises `SettingsError` for what was typed and the engine cannot be told.
    """
    from ..engines import engine_settings

    return engine_settings(engine, typed(settings))


def typed(settings: Settings) -> dict[str, Any]:
    """The fields of `settings` whose options were typed, in the command that runs."""
    source = click.get_current_context().get_parameter_source
    return {
        f.name: getattr(settings, f.name)
        for f in fields(Settings)
        if any(
            source(option) is ParameterSource.COMMANDLINE for option in _FIELD_OPTIONS.get(f.name, (f.name,))
        )
    }


_FIELD_OPTIONS: Final = {
    "cpu_tensors": ("overrides", "cpu_moe", "n_cpu_moe"),
    "offload_kqv": ("no_kv_offload",),
    "op_offload": ("no_op_offload",),
}


def _shares(text: str | None) -> tuple[float, ...]:
    """`3,1` or `3/1`, as llama.cpp splits them."""
    if not text:
        return ()
    try:
        return tuple(float(x) for x in re.split(r"[,/]+", text) if x)
    except ValueError:
        raise SettingsError(f"--tensor-split {text!r}: give numbers such as 3,1") from None


def _host_pattern(text: str) -> str:
    pattern, _, buffer = text.rpartition("=")
    if not pattern or buffer.upper() != "CPU":
        raise SettingsError(f"--override-tensor {text!r}: write REGEX=CPU; only the host is a target here")
    return pattern
