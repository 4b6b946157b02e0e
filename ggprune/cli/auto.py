"""`ggprune auto`: the whole job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ggprune.cli.options import (
    AllowRequantize,
    AsJson,
    ContextSize,
    DropMtp,
    Flash,
    FlashAttention,
    Force,
    GpuLayers,
    ImatrixFile,
    ModelPath,
    OutPath,
    Protect,
    StrategyName,
    TextFile,
    Threads,
    UseCache,
    compute_options,
    text_option,
)
from ggprune.cli.progress import Bar, StatusLine
from ggprune.errors import UsageError


def auto_command(
    source: ModelPath,
    out: OutPath,
    drop: Annotated[int, typer.Option(min=1, show_default=False, help="How many layers to drop.")],
    type_name: Annotated[
        str | None,
        typer.Option("--type", show_default=False, help="Requantize as well: Q4_K_M, Q8_0, ..."),
    ] = None,
    drop_mtp: DropMtp = False,
    file: TextFile = None,
    eval_file: Annotated[
        Path | None,
        typer.Option(show_default=False, help="UTF-8 text to judge the result on; not that of -f."),
    ] = None,
    n_ctx: ContextSize = 512,
    n_chunk: Annotated[
        int | None,
        typer.Option(
            "--chunks", min=1, show_default="all", help="Rank on the first N chunks; judge on all."
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(show_default=False, help="Write everything down (.json or .md)."),
    ] = None,
    n_prompt: Annotated[int, typer.Option("-p", "--n-prompt", min=0, help="pp test.")] = 512,
    n_gen: Annotated[int, typer.Option("-n", "--n-gen", min=0, help="tg test.")] = 128,
    n_repeat: Annotated[int, typer.Option("-r", "--repetitions", min=1, help="Repetitions.")] = 5,
    imatrix: ImatrixFile = None,
    allow_requantize: AllowRequantize = False,
    threads: Threads = None,
    n_gpu_layers: GpuLayers = -1,
    flash_attn: Flash = FlashAttention.AUTO,
    strategy: StrategyName = "search",
    protect: Protect = None,
    cache: UseCache = True,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Rank the layers, drop the least important ones, requantize, verify, evaluate, benchmark.

    Ends with a table: the original, what the same type and the same bytes give without pruning,
    and the result. Layers are chosen on one text and judged on another; without -f and
    --eval-file two texts that ship with ggprune are used.

    Example: ggprune auto model-f16.gguf small.gguf --drop 2 --type Q4_K_M
    """
    from ggprune.arch import n_trunk
    from ggprune.model import open_model
    from ggprune.model.imatrix import read_imatrix
    from ggprune.pipeline import AutoOptions, auto
    from ggprune.report.document import check_report, report_text
    from ggprune.report.jsontext import to_json
    from ggprune.report.render import render_auto
    from ggprune.runtime.quantize import QuantizeOptions, parse_type
    from ggprune.scoring import CALIBRATION, EVALUATION
    from ggprune.scoring.cache import default_folder
    from ggprune.scoring.choose import parse_strategy
    from ggprune.surgery import parse_layers
    from ggprune.surgery.output import check_outputs, write_text

    if report is not None:
        check_report(report)
    if type_name is None and (imatrix is not None or allow_requantize):
        raise UsageError("--imatrix and --allow-requantize say how to quantize: add --type")
    quantize = None
    if type_name is not None:
        quantize = QuantizeOptions(parse_type(type_name), allow_requantize, n_threads=threads)
    model = open_model(source)
    options = AutoOptions(
        drop,
        drop_mtp,
        quantize,
        n_ctx,
        n_chunk,
        n_prompt,
        n_gen,
        n_repeat,
        compute_options(threads, n_gpu_layers, flash_attn),
        default_folder() if cache else None,
        parse_strategy(strategy),
        parse_layers(protect, n_trunk(model)) if protect is not None else (),
    )
    inputs = [*(f.path for f in model.files), file, eval_file, imatrix]
    check_outputs([out, report], inputs, force=force)
    result = auto(
        model,
        out,
        options,
        calibration=text_option(file, CALIBRATION),
        evaluation=text_option(eval_file, EVALUATION),
        imatrix=read_imatrix(imatrix) if imatrix is not None else None,
        force=force,
        bars=Bar,
        narrate=StatusLine(),
    )
    print(to_json(result.to_json()) if as_json else render_auto(result) + "\n", end="")
    if report is not None:
        write_text(report, report_text(result, report), force=force)
