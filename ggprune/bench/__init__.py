"""Speed, as llama-bench reports it."""

from ggprune.bench.speed import Benchmark, ModelSpeed, Speed, benchmark

__all__ = ["Benchmark", "ModelSpeed", "Speed", "benchmark"]
