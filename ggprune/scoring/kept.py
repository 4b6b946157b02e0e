"""Chunks that were computed and are still in memory: their logits and residual streams."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil

from ggprune.ablation.ablator import Stream
from ggprune.metrics.chunks import Chunk
from ggprune.metrics.estimates import Float32
from ggprune.metrics.logits import BaseLogits
from ggprune.model.cut import Cut
from ggprune.scoring.rows import BaseRows

FREE_SHARE = 4  # a quarter of the memory that is free


@dataclass
class ComputedChunk:
    """The whole model on a chunk, and what cuts on it begin with."""

    chunk: Chunk
    base: BaseLogits
    rows: BaseRows
    streams: dict[Cut, Stream] = field(default_factory=dict)

    @property
    def n_byte(self) -> int:
        """Of memory; one array seen in two ways counts once."""
        return sum({a.__array_interface__["data"][0]: a.nbytes for a in self._arrays()}.values())

    def _arrays(self) -> Iterator[Float32]:
        yield self.base.logits
        for stream in self.streams.values():
            yield from stream.rows.values()
            yield from (tokens for tokens in stream.tokens if tokens is not None)


class KeptChunks:
    """As many of the chunks that were asked for last as fit; the last one in any case."""

    def __init__(self, keep_bytes: int | None = None) -> None:
        """Without a number of bytes: a quarter of the memory that is free by then."""
        self.most = keep_bytes if keep_bytes is not None else free_bytes() // FREE_SHARE
        self._kept: OrderedDict[int, ComputedChunk] = OrderedDict()

    def get(self, chunk: Chunk) -> ComputedChunk | None:
        found = self._kept.get(chunk.number)
        if found is not None:
            self._kept.move_to_end(chunk.number)
        return found

    def add(self, computed: ComputedChunk) -> ComputedChunk:
        self._kept[computed.chunk.number] = computed
        return computed

    def make_room(self) -> None:
        """For one more, as large as the largest: before it is computed."""
        sizes = {number: kept.n_byte for number, kept in self._kept.items()}
        largest = max(sizes.values(), default=0)
        while self._kept and sum(sizes.values()) + largest > self.most:
            number, _ = self._kept.popitem(last=False)
            del sizes[number]


def free_bytes() -> int:
    """Memory that nobody uses, or that the system takes back from its caches of files."""
    return int(psutil.virtual_memory().available)
