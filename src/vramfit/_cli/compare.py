"""`vramfit compare`: compares file types and cache types."""

from __future__ import annotations

import sys
from typing import Any

import click

from .cards import cards, cards_option, host_memory, host_option
from .models import Choice, model_options
from .options import EXIT_DOES_NOT_FIT, Command, line, settings_options, show_notes, size, to_settings, tokens
from .pictures import picture_options, write_pictures
from .screen import look

__all__ = ["compare"]


def names(text: str) -> tuple[str, ...]:
    """Split words at commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


@click.command(cls=Command, epilog="Exit status: 0 something fits, 3 nothing does, 1 error, 2 usage.")
@model_options
@cards_option
@host_option
@click.option(
    "--file-types",
    type=names,
    default=None,
    metavar="TYPE,...",
    help="llama-quantize's names; COPY is the file as it is, all is every one. Default: the usual ones.",
)
@click.option(
    "--cache-types",
    type=names,
    default=None,
    metavar="TYPE,...",
    help="Cache types, or K/V as in q8_0/q4_0. Default: f16,q8_0,q4_0, or what -ctk and -ctv say.",
)
@click.option("--imatrix", is_flag=True, help="Quantized with an importance matrix.")
@click.option(
    "--host-bandwidth",
    type=float,
    default=None,
    metavar="GB/S",
    help="Memory bandwidth of the host, for the speed of layers that stay there.",
)
@click.option("--margin", type=size, default="1GiB", show_default=True, help="Left free on every card.")
@click.option(
    "--max-ctx", type=tokens, default=None, metavar="N", help="Largest context. Default: the trained one."
)
@settings_options
@picture_options
@click.option(
    "--all", "everything", is_flag=True, help="List every choice, not only those worth choosing among."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def compare(
    model: Choice, gpus: str | None, host: str | None, file_types: tuple[str, ...] | None, cache_types: tuple[str, ...] | None,
    imatrix: bool, host_bandwidth: float | None, margin: int, max_ctx: int | None, plot: str | None,
    html: str | None, everything: bool, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Compare each quantization of a model with each cache type: size, largest context, quality, speed.

    The file may have any type: what the others would hold follows from its header.

    \b
    vramfit compare model.gguf --gpus 3090ti,3060 -fa on
    vramfit compare model.gguf --gpus 24GiB --file-types Q8_0,Q4_K_M --cache-types f16,q8_0
    vramfit compare model.gguf --gpus 4090 --html compare.html --plot compare.svg
    """
    from .._planner.compare import compare as compare_all
    from .._quant import FILE_TYPES
    from .._report.comparisons import comparison_json, comparison_text

    described = model.read()
    settings = to_settings(options, model=described)
    on = cards(gpus)
    result = compare_all(
        described,
        on,
        settings,
        file_types=tuple(FILE_TYPES) if file_types == ("all",) else file_types,
        cache_types=cache_types,
        margin_bytes=margin,
        max_ctx=max_ctx,
        imatrix=imatrix,
        host_bandwidth_gbs=host_bandwidth,
        host=host_memory(host, gpus, on),
    )
    write_pictures(result, plot, html)
    click.echo(
        comparison_json(result, line().passed_over)
        if as_json
        else comparison_text(result, look(), everything=everything)
    )
    if not as_json:
        show_notes(warnings=True)
    if not result.fits:
        sys.exit(EXIT_DOES_NOT_FIT)
