"""`ggprune quantize`: another type, through llama.cpp's quantizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Argument, Context, Option

from ggprune.cli.options import KeepSplit, ModelPath, Threads, Writing, file_types
from ggprune.cli.output import show
from ggprune.cli.progress import TerminalProgress
from ggprune.cli.quantizing import Quantizing
from ggprune.errors import UsageError
from ggprune.files.outputs import check_outputs
from ggprune.model.model import open_model
from ggprune.pipeline.job import AS_INPUT, Job, planned, write
from ggprune.quantize.options import is_type, parse_type
from ggprune.report.written import blocks, quantized_model

MAX_DIGITS = 3  # of a number of threads


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


def type_behind(ctx: Context, incomplete: str) -> list[str]:
    """Types, where the first word is not still to come, which may be a file."""
    words = ctx.params.get("words") or ()
    return file_types(incomplete) if incomplete or len(words) == 1 else []


def command(
    source: ModelPath,
    words: Annotated[
        list[str],
        Argument(
            metavar="[OUT.gguf] TYPE [N_THREADS]",
            autocompletion=type_behind,
            help="TYPE: Q4_K_M, Q8_0, F16, COPY, ... Without a name the file to write is "
            "ggml-model-TYPE.gguf beside the input.",
        ),
    ],
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
    out, type_name, threads = _read(source, words, quantizing.threads)
    options = quantizing.to_type(type_name, threads, quantizing.max_buffer_size)
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
    show(quantized, blocks, writing.showing)


def _read(source: Path, words: list[str], threads: int | None) -> tuple[Path, str, int | None]:
    """Output, type and threads, as llama-quantize reads them: a first word that is a type is none
    to write to. Raises UsageError.
    """
    first, *rest = words
    if is_type(first):
        out, type_name = source.with_name(f"ggml-model-{parse_type(first)}.gguf"), first
    elif rest:
        out, (type_name, *rest) = Path(first), rest
    else:
        raise UsageError(f"say the type behind {first}: Q4_K_M, Q8_0, F16, COPY, ...")
    if not rest:
        return out, type_name, threads
    if len(rest) > 1 or not rest[0].isdecimal() or len(rest[0]) > MAX_DIGITS:
        raise UsageError(f"{' '.join(rest)}: behind the type comes the number of threads, if any")
    n_thread = int(rest[0])
    if threads not in (None, n_thread):
        raise UsageError(f"-t {threads} or {n_thread} behind the type, not both")
    return out, type_name, n_thread or None  # 0: the default, as there
