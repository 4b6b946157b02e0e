"""Everything that is asked about some models at once: speed, memory, roofline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ggprune.bench.memory import ModelMemory
from ggprune.bench.roofline import Roofline
from ggprune.bench.speed import Benchmark
from ggprune.files.keys import INLINE


@dataclass(frozen=True)
class Suite:
    """All that was asked about some models; None is what was not."""

    speed: Annotated[Benchmark, INLINE]
    memory: Annotated[tuple[ModelMemory, ...] | None, "with --memory"]
    roofline: Annotated[Roofline | None, "with --roofline"]
