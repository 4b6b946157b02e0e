"""`ggprune quantize`: another type, through llama.cpp's quantizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typer import Argument, Option

from ggprune.cli.options import KeepSplit, ModelPath, OutPath, Threads, Writing
from ggprune.cli.output import show
from ggprune.cli.progress import TerminalProgress
from ggprune.cli.quantizing import Quantizing
from ggprune.files.outputs import check_outputs
from ggprune.model import open_model
from ggprune.pipeline import AS_INPUT, Job, planned, write
from ggprune.report.written import blocks, quantized_model


@dataclass(frozen=True, kw_only=True)
class WholeQuantizing(Quantizing):
    """How to quantize a model that keeps its layers."""

    new_numbers: bool = False  # there are none
    bump_interface: str | None = None  # nothing is cut
    # fmt: off
    override_kv: Annotated[list[str] | None, Option(
        "--override-kv", metavar="KEY=TYPE:VALUE",
        help="Set a metadata value; TYPE is int, float, bool or str. Repeatable.")] = None
    keep_split: KeepSplit = False
    max_buffer_size: Annotated[int | None, Option(
        "--max-buffer-size", metavar="MIB", min=1, show_default="8192",
        help="Keep at most so much of one tensor in memory.")] = None
    threads: Threads = None
    # fmt: on


def command(
    source: ModelPath,
    out: OutPath,
    type_name: Annotated[str, Argument(metavar="TYPE", help="Q4_K_M, Q8_0, F16, COPY, ...")],
    quantizing: WholeQuantizing,
    writing: Writing,
) -> None:
    """Quantize a model with llama.cpp's own quantizer; the tensors are those of llama-quantize.

    What llama-quantize stumbles over in the middle of its work is refused before it: an entry of
    the importance matrix that is missing or does not fit, a pattern that matches nothing. Tensors
    that are to do without an entry are named with --exclude-weights. A model that is of the type
    already is copied.

    Example: ggprune quantize model-f16.gguf model-q4.gguf Q4_K_M
    """
    options = quantizing.to_type(type_name, quantizing.threads, quantizing.max_buffer_size)
    model = open_model(source)
    inputs = [*(file.path for file in model.files), *quantizing.files]
    check_outputs([out], inputs, force=writing.force)
    job = Job(
        model=model, out=out, quantize=options, imatrix=quantizing.matrix(),
        split=AS_INPUT if quantizing.keep_split else None, force=writing.force,
        check_load=writing.verify,
    )  # fmt: skip
    files = planned(job) if writing.dry_run else write(job, TerminalProgress())
    quantized = quantized_model(model, options.type, files, written=not writing.dry_run)
    show(quantized, blocks, as_json=writing.as_json)
