"""Offer settings as options: llama.cpp's own flags, so that a command line people have can be pasted.

Flags are read by `flags`, from the same table as everywhere; what is declared here is their help. Behind `--` stands a
whole command line of llama-server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from .._base.errors import SettingsError, VramfitError
from .._base.units import parse_count, parse_size
from .._llama.flags import Line, is_command, read, split_text, take
from .._llama.params import CACHE_TYPES, FLASH_ATTN, POOLINGS, SPLIT_MODES, Settings

if TYPE_CHECKING:
    from .._llama.model import Model
    from .._planner.plan import Plan

__all__ = [
    "EXIT_DOES_NOT_FIT",
    "SERVER",
    "Command",
    "line",
    "settings_options",
    "show_notes",
    "size",
    "to_settings",
    "tokens",
    "warned",
    "with_outputs",
]

EXIT_DOES_NOT_FIT: Final = 3
SERVER: Final = "llama-server"  # whose defaults hold where no engine is named
_LINE: Final = "vramfit.line"

F = TypeVar("F", bound=Callable[..., Any])


def size(text: str) -> int:
    """Read a size such as 24GiB or 512MiB as bytes; a bare number counts MiB."""
    return _parsed(parse_size, text)


def tokens(text: str) -> int:
    """Read a number such as 32768, 32k or 65,536, above 0."""
    found = _parsed(parse_count, text)
    if found < 1:
        raise click.BadParameter(f"{text!r}: give 1 or more")
    return found


def _parsed(parse: Callable[[str], int], text: str) -> int:
    try:
        return parse(text)
    except VramfitError as e:
        raise click.BadParameter(str(e)) from None


class _Shown(click.Option):
    """An option of the help text: `flags` reads it before click does."""


# Spellings, what stands for the value ("" for none), help.
_HELP: Final = (
    ("-c --ctx-size --ctx", "N|max|train", "Ask about this context instead of the largest; 32k is 32,768."),
    ("-b --batch-size", "N", "Logical batch. Default: 2048."),
    ("-ub --ubatch-size", "N", "Physical batch: what the compute buffers are sized for. Default: 512."),
    ("-np --parallel", "N", "Slots. The context is shared among them. Default: 4 with one cache."),
    (
        "-kvu/-no-kvu --kv-unified/--no-kv-unified",
        "",
        "One cache for all slots, where their number is given.",
    ),
    ("-fa --flash-attn", "|".join(FLASH_ATTN), "Flash attention. Default: auto."),
    ("-ctk --cache-type-k", "TYPE", f"Type of the K cache: {', '.join(CACHE_TYPES)}. Default: f16."),
    ("-ctv --cache-type-v", "TYPE", "Type of the V cache. Default: f16."),
    (
        "-ngl --gpu-layers --n-gpu-layers",
        "N",
        "Layers on the cards, the output layer included. Default: all.",
    ),
    ("-ts --tensor-split", "N0,N1,...", "Shares of the layers. Default: the best split."),
    ("-sm --split-mode", "|".join(SPLIT_MODES), "Spread layers over the cards, or use one. Default: layer."),
    ("-mg --main-gpu", "I", "The card to use with --split-mode none."),
    ("-ot --override-tensor", "REGEX=CPU", "Keep matching tensors on the host."),
    ("-cmoe --cpu-moe", "", "Keep all experts on the host."),
    ("-ncmoe --n-cpu-moe", "N", "Keep the experts of the first N layers on the host."),
    ("-ncffn --n-cpu-ffn", "N", "Keep the dense feed-forward weights of the first N layers on the host."),
    ("-nkvo --no-kv-offload", "", "Keep the cache on the host."),
    ("--no-op-offload", "", "Leave operations on host weights to the host."),
    ("--swa-full", "", "Full-size cache for sliding-window layers."),
    ("--embeddings --embedding", "", "Embedding mode."),
    ("--pooling", "|".join(POOLINGS), "How embeddings are pooled. Default: as the header says."),
    ("--rerank --reranking", "", "Reranking: embedding mode, pooled by rank."),
    ("-md --model-draft --spec-draft-model", "MODEL", "A draft model beside it."),
    ("-ngld --gpu-layers-draft", "N", "Layers of the draft on the cards. Default: all."),
    ("-devd --device-draft", "CUDA0,...|none", "Cards of the draft. Default: those of the model."),
    ("-ctkd --cache-type-k-draft", "TYPE", "Type of the draft's K cache. Default: f16."),
    ("-ctvd --cache-type-v-draft", "TYPE", "Type of the draft's V cache. Default: f16."),
    ("--spec-type", "TYPE,...", "How tokens are drafted: draft-simple, draft-mtp, ngram-mod, ..."),
    ("--spec-draft-n-max", "N", "Tokens drafted at once, at most. Default: 3."),
    (
        "-mm --mmproj",
        "FILE",
        "A projector of images or sound beside it; --no-mmproj counts none that was found.",
    ),
    ("--no-mmproj-offload", "", "Keep the projector on the host."),
    ("--lora", "FILE,...", "LoRA adapters."),
    ("--control-vector", "FILE,...", "Control vectors."),
)


def settings_options(command: F) -> F:
    """Add the options that make a `Settings`; the command needs `cls=Command`."""
    command = click.option(
        "--outputs", "n_outputs_max", type=int, default=None, metavar="N",
        help="Logit rows kept per batch: N, or 0 for all. Default: one per slot, as llama-server keeps.",
    )(command)  # fmt: skip
    command = click.option(
        "--engine-build", default=None, metavar="BUILD",
        help="Count by the rules of this build: b8470, a commit, ollama@0.24, llama-cpp-python@0.3.28.",
    )(command)  # fmt: skip
    for names, value, text in reversed(_HELP):
        kind: dict[str, Any] = {"metavar": value} if value else {} if "/" in names else {"is_flag": True}
        command = click.option(*names.split(), cls=_Shown, expose_value=False, help=text, **kind)(command)
    return command


class Command(click.Command):
    """A command that takes llama-server's flags beside its own options, and behind `--` a whole line of them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the flags, and leave the rest to click."""
        at = args.index("--") if "--" in args else len(args)
        pasted = args[at + 1 :]
        if len(pasted) == 1 and " " in pasted[0]:
            pasted = _usage(split_text, pasted[0], ctx)
        if not is_command(pasted):
            pasted, rest = [], args[at:]
        else:
            rest = []
        theirs, own = _apart(args[:at], self._own(ctx))
        found: Line = _usage(read, [*pasted, *theirs], ctx)
        ctx.meta[_LINE] = found
        return super().parse_args(ctx, [*own, *found.model, *rest])

    def _own(self, ctx: click.Context) -> dict[str, int]:
        """Map the spellings of the command's own options to how many words follow each."""
        own = dict.fromkeys(self.get_help_option_names(ctx), 0)
        for option in self.params:
            if isinstance(option, click.Option) and not isinstance(option, _Shown):
                follow = 0 if option.is_flag or option.count else option.nargs
                own |= dict.fromkeys((*option.opts, *option.secondary_opts), follow)
        return own


def _usage(function: Callable[[Any], Any], given: Any, ctx: click.Context) -> Any:
    try:
        return function(given)
    except SettingsError as e:
        raise click.UsageError(str(e), ctx) from None


def _apart(words: Sequence[str], own: dict[str, int]) -> tuple[list[str], list[str]]:
    """Tell flags of the engine, with their values, from all other words; the command's own options come first."""
    theirs: list[str] = []
    others: list[str] = []
    at = 0
    while at < len(words):
        found = None if words[at].partition("=")[0] in own else take(words, at)
        length = 1 + own.get(words[at], 0) if found is None else found[2]
        (others if found is None else theirs).extend(words[at : at + length])
        at += length
    return theirs, others


def line() -> Line:
    """Return the flags that were typed in the command that runs."""
    found = click.get_current_context().meta.get(_LINE)
    return found if isinstance(found, Line) else Line()


def to_settings(options: dict[str, Any], engine: str | None = None, model: Model | None = None) -> Settings:
    """Put the flags that were typed over the engine's defaults, llama-server's where none is named.

    Takes the values of `settings_options` out of `options`. A context asked for as the trained one is that of `model`.
    Raises `SettingsError` for what the engine cannot be told.
    """
    from .._engines.settings import engine_settings, settings_for

    outputs, build = options.pop("n_outputs_max"), options.pop("engine_build")
    given = dict(line().given)
    if build:
        given["engine_build"] = build
    name = engine or SERVER
    settings = engine_settings(name, given) if model is None else settings_for(model, given, name)
    return with_outputs(settings, outputs, engine)


def with_outputs(settings: Settings, outputs: int | None, engine: str | None) -> Settings:
    """Keep as many rows of logits as `--outputs` says. Raises `SettingsError` for an engine, which sets that itself."""
    if outputs is None:
        return settings
    if engine is not None:
        raise SettingsError(
            f"--outputs {outputs}: {engine} sets this itself; leave out --outputs or --engine"
        )
    return replace(settings, n_outputs_max=outputs)


def warned(plan: Plan, told: Line | None = None) -> Plan:
    """Add a warning to `plan` for each flag that was typed, or `told` by a list, and is not counted.

    Without the advice how to extend the context, where the line says that itself.
    """
    from .._planner.warnings import context_warnings

    told = line() if told is None else told
    advice = context_warnings(plan.model, plan.estimate.n_ctx_seq) if told.extends else ()
    said = [text for text in plan.warnings if text not in advice]
    if advice:
        said.append(
            f"{plan.estimate.n_ctx_seq:,} tokens a slot are more than the model was made for: how well it reads them"
            " with the scaling of this line is for a test to say"
        )
    return replace(plan, warnings=(*told.warnings, *said))


def show_notes(*, warnings: bool = False) -> None:
    """Print which flags were passed over; with `warnings`, those that are not counted as well."""
    said = [f"Warning: {text}" for text in line().warnings] if warnings else []
    said += line().notes
    if said:
        click.echo("\n" + "\n".join(said))
