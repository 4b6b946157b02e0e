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
    Exhaustive,
    Flash,
    FlashAttention,
    Force,
    GpuLayers,
    ModelPath,
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
            help="What the layers are ordered by: kld, ppl, same_top_p, rms_delta_p, bi, angular "
            "or relative_magnitude.",
        ),
    ] = "kld",
    decide: Annotated[
        int, typer.Option(min=1, help="Race: settle which N layers matter least, by KLD.")
    ] = 4,
    drop: Annotated[
        int | None,
        typer.Option(min=1, show_default=False, help="Also find the best N layers to drop."),
    ] = None,
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
    from ggprune.arch import n_trunk
    from ggprune.model import open_model
    from ggprune.pipeline.auto import rank_path
    from ggprune.report.jsontext import to_json
    from ggprune.report.plot import check_plot, plot_ranking
    from ggprune.report.render import render_ranking
    from ggprune.runtime.isolate import isolated
    from ggprune.scoring import CALIBRATION, Metric
    from ggprune.scoring.cache import default_folder
    from ggprune.scoring.choose import parse_strategy
    from ggprune.scoring.rank import parse_metric
    from ggprune.surgery import parse_layers
    from ggprune.surgery.output import check_outputs, write_text

    by = parse_metric(metric)
    if plot is not None:
        check_plot(plot)
    model = open_model(source)
    protected = parse_layers(protect, n_trunk(model)) if protect is not None else ()
    if drop is not None and drop >= n_trunk(model):
        raise UsageError(f"--drop {drop}: the model has {n_trunk(model)} layers")
    check_outputs([out, plot], [*(f.path for f in model.files), file], force=force)
    ranking = isolated(
        rank_path,
        model.path,
        text_option(file, CALIBRATION),
        n_ctx=n_ctx,
        n_chunk=n_chunk,
        compute=compute_options(threads, n_gpu_layers, flash_attn),
        bar=Bar("rank"),
        metric=by,
        n_decide=None if exhaustive or by is not Metric.KLD else decide,
        confidence=confidence,
        cache=default_folder() if cache else None,
        n_drop=drop,
        strategy=parse_strategy(strategy),
        protect=protected,
        narrate=StatusLine(),
    )
    document = to_json(ranking.to_json())
    if out is not None:
        write_text(out, document, force=force)
    if plot is not None:
        plot_ranking(ranking, plot)
    print(document if as_json else render_ranking(ranking) + "\n", end="")
