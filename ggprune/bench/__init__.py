"""Speed, latency and memory, and what the memory's bandwidth promises."""

from ggprune.bench.cases import Case, Grid
from ggprune.bench.ratio import Ratio, Wanted, paired_ratio
from ggprune.bench.speed import Benchmark, ModelSpeed, Speed, benchmark, benchmark_cases

__all__ = [
    "Benchmark", "Case", "Grid", "ModelSpeed", "Ratio", "Speed", "Wanted", "benchmark",
    "benchmark_cases", "paired_ratio",
]  # fmt: skip
