"""The job of `ggprune bench`: everything that is asked about some models at once.

Each part runs in child processes: llama.cpp may abort, and memory is counted per process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from ggprune.arch.footprint import footprints_of
from ggprune.bench import latency, speed
from ggprune.bench.cases import Case
from ggprune.bench.roofline import Roofline, make_roofline, measure_bandwidth
from ggprune.bench.runner import ModelMemory, measure_memory
from ggprune.bench.speed import Benchmark, benchmark_cases
from ggprune.files.keys import INLINE
from ggprune.model.model import Model
from ggprune.progress import SILENT, Progress
from ggprune.runtime.isolate import in_child, isolated

benchmark = in_child(speed.benchmark)
measure_latency = in_child(latency.measure_latency)


@dataclass(frozen=True)
class Suite:
    """All that was asked about some models; None is what was not."""

    speed: Annotated[Benchmark, INLINE]
    memory: Annotated[tuple[ModelMemory, ...] | None, "with --memory"]
    roofline: Annotated[Roofline | None, "with --roofline"]


def run_suite(
    models: Sequence[Model],
    cases: Sequence[Case],
    *,
    n_repeat: int = 5,
    warmup: bool = True,
    memory: bool = False,
    roofline: bool = False,
    progress: Progress = SILENT,
) -> Suite:
    """Speed of all cases; memory of the one with the largest context.

    Raises LlamaError if llama.cpp cannot load or compute a model.
    """
    paths = [model.path for model in models]
    speed = isolated(
        benchmark_cases, paths, cases, n_repeat=n_repeat, warmup=warmup, progress=progress
    )
    largest = max(cases, key=lambda case: case.n_ctx)
    return Suite(
        speed,
        tuple(isolated(measure_memory, path, largest) for path in paths) if memory else None,
        _roofline(models, speed) if roofline else None,
    )


def _roofline(models: Sequence[Model], speed: Benchmark) -> Roofline:
    """Measures the bandwidth, unless weights are on a GPU: then only ratios are predicted."""
    cases = [timed.case for timed in speed.models[0].speeds]
    n_threads = max(case.compute.n_threads or speed.hardware.n_threads for case in cases)
    has_gpu = any(device.is_gpu for device in speed.hardware.devices)
    on_gpu = has_gpu and any(case.compute.n_gpu_layers != 0 for case in cases)
    bandwidth = None if on_gpu else isolated(measure_bandwidth, n_threads)
    read = [footprints_of(model).without(()).token_bytes for model in models]
    return make_roofline(speed, read, bandwidth)
