"""`ggprune eval`: perplexity, and the distance from another model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ggprune.cli.options import (
    AsJson,
    BatchSize,
    Chunks,
    ContextSize,
    Flash,
    FlashAttention,
    GpuLayers,
    ModelPath,
    TextFile,
    Threads,
    UBatchSize,
    compute_options,
    text_option,
)
from ggprune.cli.progress import Bar


def evaluate_command(
    source: ModelPath,
    base: Annotated[
        Path | None,
        typer.Option(show_default=False, help="Compare with this model: KL divergence and more."),
    ] = None,
    file: TextFile = None,
    n_ctx: ContextSize = 512,
    n_chunk: Chunks = None,
    n_batch: BatchSize = 2048,
    n_ubatch: UBatchSize = 512,
    threads: Threads = None,
    n_gpu_layers: GpuLayers = -1,
    flash_attn: Flash = FlashAttention.AUTO,
    as_json: AsJson = False,
) -> None:
    """Perplexity as llama-perplexity computes it; with --base also its KL divergence statistics.

    Example: ggprune eval pruned.gguf --base original.gguf -f wiki.test.raw
    """
    from ggprune.evaluation import evaluate
    from ggprune.model import open_model
    from ggprune.report.jsontext import to_json
    from ggprune.report.render import render_evaluation
    from ggprune.runtime.isolate import isolated
    from ggprune.scoring import EVALUATION

    model = open_model(source)  # a damaged file gets a better message here than from llama.cpp
    base_path = open_model(base).path if base is not None else None
    (evaluation,) = isolated(
        evaluate,
        [model.path],
        text_option(file, EVALUATION),
        base=base_path,
        n_ctx=n_ctx,
        n_chunk=n_chunk,
        compute=compute_options(threads, n_gpu_layers, flash_attn, n_batch, n_ubatch),
        progress=Bar("evaluate"),
    )
    text = to_json(evaluation.to_json()) if as_json else render_evaluation(evaluation) + "\n"
    print(text, end="")
