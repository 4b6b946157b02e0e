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
    DropPercent,
    Flash,
    FlashAttention,
    Force,
    GpuLayers,
    ImatrixFile,
    MaxKld,
    MaxPplRatio,
    ModelPath,
    OutPath,
    Protect,
    StrategyName,
    TargetParams,
    TargetSize,
    TargetSpeedup,
    TextFile,
    Threads,
    UseCache,
    compute_options,
    text_option,
    wanted_option,
)
from ggprune.cli.progress import Bar, StatusLine
from ggprune.cli.quantize_options import (
    BumpInterface,
    ExcludeWeights,
    IncludeWeights,
    LeaveOutputTensor,
    NewNumbers,
    OutputTensorType,
    Pure,
    TensorTypeFile,
    TensorTypes,
    TokenEmbeddingType,
    TypeOption,
    quantize_options,
)
from ggprune.errors import UsageError


def auto_command(
    source: ModelPath,
    out: OutPath,
    drop: Annotated[
        int | None, typer.Option(min=1, show_default=False, help="Drop so many layers ...")
    ] = None,
    drop_percent: DropPercent = None,
    target_size: TargetSize = None,
    target_params: TargetParams = None,
    target_speedup: TargetSpeedup = None,
    max_kld: MaxKld = None,
    max_ppl_ratio: MaxPplRatio = None,
    type_name: TypeOption = None,
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
    include_weights: IncludeWeights = None,
    exclude_weights: ExcludeWeights = None,
    tensor_types: TensorTypes = None,
    tensor_type_file: TensorTypeFile = None,
    new_numbers: NewNumbers = False,
    output_tensor_type: OutputTensorType = None,
    token_embedding_type: TokenEmbeddingType = None,
    leave_output_tensor: LeaveOutputTensor = False,
    pure: Pure = False,
    bump_interface: BumpInterface = None,
    allow_requantize: AllowRequantize = False,
    threads: Threads = None,
    n_gpu_layers: GpuLayers = -1,
    flash_attn: Flash = FlashAttention.AUTO,
    strategy: StrategyName = "search",
    protect: Protect = None,
    measure_front: Annotated[
        bool,
        typer.Option(
            "--measure-front",
            help="Also write, time and delete a file for every smaller number of layers.",
        ),
    ] = False,
    generate: Annotated[
        bool,
        typer.Option("--generate", help="Also let the models write; the report has the texts."),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(show_default=False, help="Draw scores and choice (.png, .svg, .pdf)."),
    ] = None,
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
    from ggprune.files.documents import to_text
    from ggprune.files.outputs import check_outputs
    from ggprune.files.pending import write_text
    from ggprune.metrics.text import CALIBRATION, EVALUATION
    from ggprune.model import open_model
    from ggprune.model.imatrix import read_imatrix
    from ggprune.pipeline import AutoOptions, auto
    from ggprune.report.auto import blocks
    from ggprune.report.auto import report as report_blocks
    from ggprune.report.plot import check_plot, ranking_figure, write_figure
    from ggprune.report.reportfile import check_report, report_text
    from ggprune.report.terminal import terminal
    from ggprune.scoring.cache import default_folder

    if report is not None:
        check_report(report)
    if plot is not None:
        check_plot(plot)
    quantize = quantize_options(
        type_name, threads=threads, imatrix=imatrix, tensor_types=tensor_types,
        tensor_type_file=tensor_type_file, output_tensor_type=output_tensor_type,
        token_embedding_type=token_embedding_type, include_weights=include_weights,
        exclude_weights=exclude_weights, bump_interface=bump_interface, new_numbers=new_numbers,
        leave_output_tensor=leave_output_tensor, pure=pure, allow_requantize=allow_requantize,
    )  # fmt: skip
    model = open_model(source)
    wanted = wanted_option(
        model, drop=drop, drop_percent=drop_percent, target_size=target_size,
        target_params=target_params, target_speedup=target_speedup, max_kld=max_kld,
        max_ppl_ratio=max_ppl_ratio, strategy=strategy, protect=protect,
    )  # fmt: skip
    if wanted is None:
        raise UsageError("say how many layers are to go: --drop, --target-size, --max-kld, ...")
    options = AutoOptions(
        wanted,
        drop_mtp,
        quantize,
        n_ctx,
        n_chunk,
        n_prompt,
        n_gen,
        n_repeat,
        compute_options(threads, n_gpu_layers, flash_attn),
        default_folder() if cache else None,
        measure_front,
        generate,
    )
    inputs = [*(f.path for f in model.files), file, eval_file, imatrix, tensor_type_file]
    check_outputs([out, report, plot], inputs, force=force)
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
    print(to_text(result) if as_json else terminal(blocks(result)), end="")
    if report is not None:
        write_text(report, report_text(result, report_blocks(result), report), force=force)
    if plot is not None:
        write_figure(ranking_figure(result.ranking), plot, force=force)
