"""What memory one model takes while it runs a test, measured in a process that does nothing else.

llama.cpp says what it allocates, the operating system what the process needed at most, and the
driver what a GPU has less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggprune.bench.cases import Case
from ggprune.bench.runner import Runner
from ggprune.runtime.buffers import CACHES, Buffers, peak_rss_bytes
from ggprune.runtime.devices import Device, devices
from ggprune.runtime.isolate import isolated


@dataclass(frozen=True)
class VideoMemory:
    """Of one GPU: what the driver has less while the model is loaded."""

    device: str
    total_bytes: int
    used_bytes: int

    def to_json(self) -> dict[str, Any]:
        return vars(self)


@dataclass(frozen=True)
class ModelMemory:
    """Of one model in one test."""

    path: str
    test: str
    n_ctx: int
    buffers: Buffers
    peak_rss_bytes: int  # of a process that has Python and llama.cpp as well
    start_rss_bytes: int  # what it had before the model
    gpus: tuple[VideoMemory, ...]

    @property
    def model_bytes(self) -> int:
        return self.buffers.total("model")

    @property
    def cache_bytes(self) -> int:
        return self.buffers.total(*CACHES)

    @property
    def compute_bytes(self) -> int:
        return self.buffers.total("compute", "output")

    def to_json(self) -> dict[str, Any]:
        return {
            "model_filename": self.path,
            "test": self.test,
            "n_ctx": self.n_ctx,
            "model_bytes": self.model_bytes,
            "cache_bytes": self.cache_bytes,
            "compute_bytes": self.compute_bytes,
            "buffers": [buffer.to_json() for buffer in self.buffers.buffers],
            "start_rss_bytes": self.start_rss_bytes,
            "peak_rss_bytes": self.peak_rss_bytes,
            "gpus": [gpu.to_json() for gpu in self.gpus],
        }


def measure_memory(paths: Sequence[Path], case: Case) -> tuple[ModelMemory, ...]:
    """Run `case` once for every model, each in a process of its own.

    Raises LlamaError if llama.cpp cannot load or compute a model.
    """
    return tuple(isolated(measure_here, path, case) for path in paths)


def measure_here(path: Path, case: Case) -> ModelMemory:
    """Of this process, which must have done nothing else before."""
    before = {device.name: device for device in devices() if device.is_gpu}
    start = peak_rss_bytes()
    with Runner(path, case.compute, seed=1) as runner:
        runner.open(case)
        runner.time_ns()
        gpus = [_used(before[d.name], d) for d in devices() if d.name in before]
        buffers = runner.buffers
    return ModelMemory(
        str(path), case.name, case.n_ctx, buffers, peak_rss_bytes(), start, tuple(gpus)
    )


def _used(before: Device, after: Device) -> VideoMemory:
    used = max(before.free_bytes - after.free_bytes, 0)
    return VideoMemory(after.name, after.total_bytes, used)
