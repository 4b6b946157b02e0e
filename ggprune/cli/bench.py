"""`ggprune bench`: how fast?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ggprune.cli.options import (
    AsJson,
    BatchSize,
    Flash,
    FlashAttention,
    GpuLayers,
    Threads,
    UBatchSize,
    compute_options,
)
from ggprune.cli.progress import Bar
from ggprune.errors import UsageError


def bench_command(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="A.gguf [B.gguf ...]", show_default=False, help="Models to time."),
    ],
    n_prompt: Annotated[
        int, typer.Option("-p", "--n-prompt", min=0, help="Tokens of the pp test; 0: no such test.")
    ] = 512,
    n_gen: Annotated[
        int, typer.Option("-n", "--n-gen", min=0, help="Tokens of the tg test; 0: no such test.")
    ] = 128,
    n_repeat: Annotated[int, typer.Option("-r", "--repetitions", min=1, help="Repetitions.")] = 5,
    n_batch: BatchSize = 2048,
    n_ubatch: UBatchSize = 512,
    threads: Threads = None,
    n_gpu_layers: GpuLayers = -1,
    flash_attn: Flash = FlashAttention.AUTO,
    as_json: AsJson = False,
) -> None:
    """Prompt (pp) and generation (tg) speed as llama-bench measures it, models taking turns.

    Example: ggprune bench original.gguf pruned.gguf -p 512 -n 128
    """
    from ggprune.bench import benchmark
    from ggprune.model import open_model
    from ggprune.report.jsontext import to_json
    from ggprune.report.render import render_benchmark
    from ggprune.runtime.isolate import isolated

    if n_prompt == n_gen == 0:
        raise UsageError("-p 0 -n 0 leaves nothing to measure")
    paths = [open_model(path).path for path in sources]
    result = isolated(
        benchmark,
        paths,
        n_prompt=n_prompt,
        n_gen=n_gen,
        n_repeat=n_repeat,
        compute=compute_options(threads, n_gpu_layers, flash_attn, n_batch, n_ubatch),
        progress=Bar("benchmark"),
    )
    print(to_json(result.to_json()) if as_json else render_benchmark(result) + "\n", end="")
