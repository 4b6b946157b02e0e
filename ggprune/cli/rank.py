"""`ggprune rank`: what is every layer worth?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ggprune.cli.options import (
    AsJson,
    Chunks,
    Confidence,
    ContextSize,
    DropPercent,
    Exhaustive,
    Flash,
    FlashAttention,
    Force,
    GpuLayers,
    MaxKld,
    MaxPplRatio,
    ModelPath,
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


def rank_command(
    source: ModelPath,
    file: TextFile = None,
    n_ctx: ContextSize = 512,
    n_chunk: Chunks = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--output", show_default=False, help="Write the scores as JSON."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(show_default=False, help="Write a picture (.png, .svg, .pdf)."),
    ] = None,
    metric: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What the layers are ordered by: kld, ppl, same_top_p, rms_delta_p, bi, angular, "
            "relative_magnitude, magnitude or imatrix; with a + behind it (ppl+) the first four "
            "and the last two come last.",
        ),
    ] = "kld",
    unit: Annotated[
        str, typer.Option(metavar="NAME", help="What is left out: layer, attn or ffn.")
    ] = "layer",
    imatrix: Annotated[
        Path | None,
        typer.Option(
            show_default=False, help="Importance matrix (GGUF or .dat): its statistics by layer."
        ),
    ] = None,
    decide: Annotated[
        int,
        typer.Option(
            min=1,
            help="Race: settle which N layers matter least; as many as are to go, if some are.",
        ),
    ] = 4,
    drop: Annotated[
        int | None,
        typer.Option(min=1, show_default=False, help="Also find the best N layers to drop."),
    ] = None,
    drop_percent: DropPercent = None,
    target_size: TargetSize = None,
    target_params: TargetParams = None,
    target_speedup: TargetSpeedup = None,
    max_kld: MaxKld = None,
    max_ppl_ratio: MaxPplRatio = None,
    strategy: StrategyName = "search",
    protect: Protect = None,
    exhaustive: Exhaustive = False,
    confidence: Confidence = 0.95,
    cache: UseCache = True,
    force: Force = False,
    threads: Threads = None,
    n_gpu_layers: GpuLayers = -1,
    flash_attn: Flash = FlashAttention.AUTO,
    as_json: AsJson = False,
) -> None:
    """Score every layer by what the model is like without it; the least important comes first.

    For each layer: perplexity and KL divergence (base || without it) of the very file that
    dropping it would give, how often the most likely token stays the same, and its Block
    Influence, 1 - cos(input, output). Nothing is written: layers are left out in memory.
    Without -f a text that ships with ggprune is used.

    Layers race: one that is surely among the --decide least important ones, or surely not, gets
    no more chunks; the column "tokens" tells.

    Example: ggprune rank model.gguf -f my-domain.txt --chunks 20 -o scores.json
    """
    from ggprune.ablation.units import parse_unit
    from ggprune.files.documents import to_text
    from ggprune.files.outputs import check_outputs
    from ggprune.files.pending import write_text
    from ggprune.metrics.text import CALIBRATION
    from ggprune.model import open_model
    from ggprune.model.imatrix import read_imatrix
    from ggprune.pipeline.rank import rank_path
    from ggprune.report.plot import check_plot, ranking_figure, write_figure
    from ggprune.report.ranking import blocks
    from ggprune.report.terminal import terminal
    from ggprune.runtime.isolate import isolated
    from ggprune.scoring import parse_metric
    from ggprune.scoring.cache import default_folder

    by, what = parse_metric(metric), parse_unit(unit)
    if plot is not None:
        check_plot(plot)
    model = open_model(source)
    wanted = wanted_option(
        model, drop=drop, drop_percent=drop_percent, target_size=target_size,
        target_params=target_params, target_speedup=target_speedup, max_kld=max_kld,
        max_ppl_ratio=max_ppl_ratio, strategy=strategy, protect=protect,
    )  # fmt: skip
    check_outputs([out, plot], [*(f.path for f in model.files), file, imatrix], force=force)
    ranking = isolated(
        rank_path,
        model.path,
        text_option(file, CALIBRATION),
        n_ctx=n_ctx,
        n_chunk=n_chunk,
        compute=compute_options(threads, n_gpu_layers, flash_attn),
        bar=Bar("rank"),
        by=by,
        unit=what,
        imatrix=read_imatrix(imatrix) if imatrix is not None else None,
        n_decide=None if exhaustive else decide,
        confidence=confidence,
        cache=default_folder() if cache else None,
        wanted=wanted,
        narrate=StatusLine(),
    )
    document = to_text(ranking)
    if out is not None:
        write_text(out, document, force=force)
    if plot is not None:
        write_figure(ranking_figure(ranking), plot, force=force)
    print(document if as_json else terminal(blocks(ranking)), end="")
