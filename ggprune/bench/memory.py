"""What memory one model takes while it runs a test, measured in a process that does nothing else.

llama.cpp says what it allocates, the operating system what the process needed at most, and the
driver what a GPU has less.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ggprune.bench.cases import Case
from ggprune.bench.runner import Runner
from ggprune.files.keys import INLINE, Key, written
from ggprune.runtime.buffers import CACHES, Buffers, peak_rss_bytes
from ggprune.runtime.devices import devices


@dataclass(frozen=True)
class VideoMemory:
    """Memory of one GPU, and what the driver has less of it while the model is loaded."""

    device: str
    total_bytes: int
    used_bytes: int


@dataclass(frozen=True, kw_only=True)
class ModelMemory:
    """What one model takes in one test."""

    path: Annotated[str, Key(name="model_filename")]
    test: str
    n_ctx: int
    buffers: Annotated[Buffers, INLINE]
    start_rss_bytes: Annotated[int, "of the process before the model"]
    peak_rss_bytes: Annotated[int, "with Python, the libraries, and pages of the mapped file"]
    gpus: tuple[VideoMemory, ...]

    @property
    @written(before="buffers")
    def model_bytes(self) -> int:
        return self.buffers.total("model")

    @property
    @written(before="buffers")
    def cache_bytes(self) -> Annotated[int, "KV, RS and state"]:
        return self.buffers.total(*CACHES)

    @property
    @written(before="buffers")
    def compute_bytes(self) -> Annotated[int, "compute and output"]:
        return self.buffers.total("compute", "output")


def measure_memory(path: Path, case: Case) -> ModelMemory:
    """Run `case` once: memory of this process, which must have done nothing else before.

    Raises LlamaError if llama.cpp cannot load or compute the model.
    """
    before = {device.name: device.free_bytes for device in devices() if device.is_gpu}
    start = peak_rss_bytes()
    with Runner(path, case.compute, seed=1) as runner:
        runner.open(case)
        runner.time_ns()
        gpus = tuple(
            VideoMemory(d.name, d.total_bytes, max(before[d.name] - d.free_bytes, 0))
            for d in devices()
            if d.name in before
        )
    return ModelMemory(
        path=str(path), test=case.name, n_ctx=case.n_ctx, buffers=runner.buffers,
        start_rss_bytes=start, peak_rss_bytes=peak_rss_bytes(), gpus=gpus,
    )  # fmt: skip
