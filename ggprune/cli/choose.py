"""`ggprune choose`: which layers, on top of a finished ranking?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ggprune.cli.options import (
    AsJson,
    Confidence,
    DropPercent,
    Flash,
    FlashAttention,
    Force,
    GpuLayers,
    MaxKld,
    MaxPplRatio,
    Protect,
    StrategyName,
    TargetParams,
    TargetSize,
    TargetSpeedup,
    Threads,
    UseCache,
    compute_options,
    wanted_option,
)
from ggprune.cli.progress import StatusLine
from ggprune.errors import UsageError


def choose_command(
    scores_file: Annotated[
        Path,
        typer.Argument(metavar="SCORES.json", show_default=False, help="From ggprune rank -o."),
    ],
    model_path: Annotated[
        Path | None,
        typer.Option("--model", "-m", show_default="the ranked one", help="The model's new place."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "-f", "--file", show_default="the ranking's", help="The calibration text's new place."
        ),
    ] = None,
    drop: Annotated[
        int | None, typer.Option(min=1, show_default=False, help="Drop so many layers ...")
    ] = None,
    drop_percent: DropPercent = None,
    target_size: TargetSize = None,
    target_params: TargetParams = None,
    target_speedup: TargetSpeedup = None,
    max_kld: MaxKld = None,
    max_ppl_ratio: MaxPplRatio = None,
    strategy: StrategyName = "search",
    protect: Protect = None,
    n_chunk: Annotated[
        int | None,
        typer.Option(
            "--chunks", min=1, show_default="the ranking's", help="Measure on the first N chunks."
        ),
    ] = None,
    confidence: Confidence = 0.95,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", show_default=False, help="Write the scores with the choice as JSON."
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(show_default=False, help="Draw loss against speed (.png, .svg, .pdf)."),
    ] = None,
    cache: UseCache = True,
    force: Force = False,
    threads: Threads = None,
    n_gpu_layers: GpuLayers = -1,
    flash_attn: Flash = FlashAttention.AUTO,
    as_json: AsJson = False,
) -> None:
    """Choose the layers to drop together, on top of a finished ranking.

    Sets of layers are measured on the ranking's text; what the ranking has measured is taken from
    the cache. Prints every race, what each number of layers costs and gives, and what simpler
    strategies would have chosen. ggprune prune --scores takes the result.

    Example: ggprune choose scores.json --target-speedup 1.2 -o chosen.json
    """
    from ggprune.files.documents import to_text
    from ggprune.files.outputs import check_outputs
    from ggprune.files.pending import write_text
    from ggprune.model import open_model
    from ggprune.pipeline.rank import choose_path
    from ggprune.report.chosen import blocks
    from ggprune.report.plot import check_plot, choice_figure, write_figure
    from ggprune.report.terminal import terminal
    from ggprune.runtime.isolate import isolated
    from ggprune.scoring import check_scores, read_scores
    from ggprune.scoring.cache import default_folder

    if plot is not None:
        check_plot(plot)
    scores = read_scores(scores_file)
    model = open_model(model_path or scores.model_path)
    check_scores(scores, model)
    wanted = wanted_option(
        model, drop=drop, drop_percent=drop_percent, target_size=target_size,
        target_params=target_params, target_speedup=target_speedup, max_kld=max_kld,
        max_ppl_ratio=max_ppl_ratio, strategy=strategy, protect=protect,
    )  # fmt: skip
    if wanted is None:
        raise UsageError("say how many layers are to go: --drop, --target-size, --max-kld, ...")
    check_outputs([out, plot], [*(f.path for f in model.files), scores_file, file], force=force)
    choice = isolated(
        choose_path,
        model.path,
        scores.text(file),
        scores,
        wanted,
        n_chunk=n_chunk,
        compute=compute_options(threads, n_gpu_layers, flash_attn),
        cache=default_folder() if cache else None,
        confidence=confidence,
        narrate=StatusLine(),
    )
    document = to_text({**scores.data, "chosen": choice.to_json()})
    if out is not None:
        write_text(out, document, force=force)
    if plot is not None:
        write_figure(choice_figure(choice), plot, force=force)
    print(document if as_json else terminal(blocks(choice)), end="")
