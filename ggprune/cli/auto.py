"""`ggprune auto`: the whole job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option

from ggprune.cli import options as shared
from ggprune.cli.choosing import Search, Targets
from ggprune.cli.help import TRAIN
from ggprune.cli.measuring import Computing, cache_folder, given_text, note_chunks
from ggprune.cli.output import deliver, show
from ggprune.cli.progress import TerminalProgress
from ggprune.cli.quantizing import Quantizing
from ggprune.cli.spreading import Spreading
from ggprune.cli.training import Training
from ggprune.errors import UsageError
from ggprune.files.outputs import check_outputs, write_text
from ggprune.files.reading import TextErrors
from ggprune.healing.result import HealOptions
from ggprune.metrics.text import CALIBRATION, EVALUATION, read_texts
from ggprune.model.model import open_model
from ggprune.pipeline.auto import auto
from ggprune.pipeline.launch import check_extra
from ggprune.pipeline.options import ALL, EVAL_TOKENS, AutoOptions
from ggprune.report.auto import blocks, report
from ggprune.report.plot import check_plot, ranking_figure, write_figure
from ggprune.report.whole import check_report, report_text
from ggprune.training.options import TrainOptions


@dataclass(frozen=True, kw_only=True)
class AutoTraining(Training):
    """What makes sense here: the result is one of several stages, with a report of its own."""

    no_refit: bool = False
    lora_out: Path | None = None
    answers_only: bool = False
    log: Path | None = None
    curves: Path | None = None
    checkpoints: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is dropped, how that is measured, and what is made of the rest."""

    # fmt: off
    targets: Targets
    type_name: shared.TypeName = None
    drop_mtp: shared.DropMtp = False
    file: shared.TextFile = None
    eval_file: Annotated[Path | None, Option(
        help="UTF-8 text to judge the result on; not that of -f.")] = None
    errors: shared.Errors = TextErrors.STRICT
    n_ctx: shared.ContextSize = 512
    n_chunk: Annotated[int | None, Option(
        "--chunks", min=1, show_default="all", help="Rank on the first N chunks."
    )] = None
    n_eval_chunk: Annotated[int | None, Option(
        "--eval-chunks", min=ALL, show_default=f"{EVAL_TOKENS} tokens",
        help="Judge on the first N chunks of the other text; -1: all.")] = None
    report: Annotated[Path | None, Option(help="Write everything down (.html, .json, .md).")] = None
    n_prompt: Annotated[int, Option("-p", "--n-prompt", min=0, help="pp test.")] = 512
    n_gen: Annotated[int, Option("-n", "--n-gen", min=0, help="tg test.")] = 128
    n_repeat: Annotated[int, Option("-r", "--repetitions", min=1,
        help="Repetitions at least; tg takes more until speed-ups are known to 3 %, or 2 minutes.",
    )] = 5
    quantizing: Quantizing
    computing: Computing
    spreading: Spreading
    search: Search
    measure_front: Annotated[bool, Option(
        "--measure-front",
        help="Also write, time and delete a file for every smaller number of layers.")] = False
    generate: Annotated[bool, Option(
        "--generate", help="Also let the models write; the report has the texts.")] = False
    heal: Annotated[bool, Option(
        "--heal", help="Repair the result, and show it beside what is not repaired.")] = False
    heal_files: Annotated[list[Path] | None, Option(
        "--heal-file", show_default="that of -f",
        help="Text to heal with, or a folder of .txt files; not that of --eval-file. Repeatable.",
    )] = None
    training: AutoTraining
    lora: Annotated[str | None, Option(
        metavar="RANK", show_default="16", rich_help_panel=TRAIN,
        help="Of the adapters that are trained.")] = None
    rounds: Annotated[int, Option(
        min=1, help="Drop a part of the layers, repair, rank the repaired model anew, drop more: "
        "in so many rounds.")] = 1
    plot: Annotated[Path | None, Option(help="Draw scores and choice (.png, .svg, .pdf).")] = None
    cache: shared.UseCache = True
    force: shared.Force = False
    showing: shared.Showing
    # fmt: on


def command(source: shared.ModelPath, out: shared.OutPath, options: Options) -> None:
    """Rank the layers, drop the least important ones, requantize, verify, evaluate, benchmark.

    Ends with a table: the original, what the same type and the same bytes give without pruning,
    and the result. Layers are chosen on one text and judged on another; without -f and
    --eval-file two texts that ship with ggprune are used.

    Example: ggprune auto model-f16.gguf small.gguf --drop 2 --type Q4_K_M
    """
    if options.report is not None:
        check_report(options.report)
    if options.plot is not None:
        check_plot(options.plot)
    quantizing, texts = options.quantizing, (options.file, options.eval_file)
    quantize = quantizing.options(options.type_name, options.computing.threads)
    model = open_model(source)
    job = AutoOptions(
        request=options.targets.required(model, options.search), drop_mtp=options.drop_mtp,
        quantize=quantize, n_ctx=options.n_ctx, n_chunk=options.n_chunk,
        n_eval_chunk=_eval_chunks(options.n_eval_chunk), n_prompt=options.n_prompt,
        n_gen=options.n_gen, n_repeat=options.n_repeat,
        compute=options.computing.compute(), cache=cache_folder(options.cache),
        measure_front=options.measure_front, generate=options.generate,
        heal=_healing(options), train=_training(options), n_round=options.rounds,
        keep_bytes=options.spreading.keep_bytes,
    )  # fmt: skip
    heal_files = options.heal_files or []
    inputs = [*(file.path for file in model.files), *texts, *quantizing.files, *heal_files]
    check_outputs([out, options.report, options.plot], inputs, force=options.force)
    with options.spreading.workforce(options.computing.compute()) as helpers:
        result = auto(
            model, out, job, client=helpers,
            calibration=given_text(options.file, CALIBRATION, options.errors),
            evaluation=given_text(options.eval_file, EVALUATION, options.errors),
            imatrix=quantizing.matrix(),
            healing=read_texts(heal_files, options.errors) if heal_files else None,
            force=options.force, progress=TerminalProgress(at_once=True),
        )  # fmt: skip
    read = result.ranking.calibration
    note_chunks(options.n_chunk, read.source, read.n_chunk_limit)
    judged = result.evaluation_text
    if options.n_eval_chunk != ALL:
        note_chunks(options.n_eval_chunk, judged.source, judged.n_chunk)
    force, ranking = options.force, result.ranking
    deliver(
        lambda: show(result, blocks, options.showing),
        (options.report,
         lambda path: write_text(path, report_text(result, report(result), path), force=force)),
        (options.plot, lambda path: write_figure(ranking_figure(ranking), path, force=force)),
    )  # fmt: skip


def _eval_chunks(n_chunk: int | None) -> int | None:
    if n_chunk == 0:
        raise UsageError(f"--eval-chunks 0: write 1 or more, or {ALL} for all")
    return n_chunk


def _training(options: Options) -> TrainOptions | None:
    """Raises UsageError for options about training where nothing is trained."""
    if not options.training.train:
        options.training.check_unused()
        if options.lora is not None:
            raise UsageError("--lora is about training: add --train")
        return None
    if not options.heal:
        raise UsageError("--train goes on from a model that is healed: add --heal")
    check_extra()
    return options.training.options(options.lora, options.n_ctx, options.computing)


def _healing(options: Options) -> HealOptions | None:
    """Raises UsageError for a text to heal with where nothing is healed."""
    if not options.heal:
        if options.heal_files:
            raise UsageError("--heal-file is a text to heal with: add --heal")
        return None
    return HealOptions(
        n_ctx=options.n_ctx, compute=options.computing.compute(), cache=cache_folder(options.cache)
    )
