"""Evaluation by workers: the unit is the group of chunks that llama-perplexity has in one batch.

Kernels of GPUs depend on the batch; so do the last bits.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from blake3 import blake3

from ggprune.cluster.crew import Crew
from ggprune.cluster.inorder import in_order
from ggprune.cluster.kinds import kind_infos
from ggprune.cluster.place import Place
from ggprune.cluster.work import Engine, Setup
from ggprune.errors import LlamaError
from ggprune.evaluation.readers import Count, Readers, Scored, n_together
from ggprune.metrics.chunks import Chunks
from ggprune.metrics.estimates import Float32
from ggprune.model.model import Model
from ggprune.progress import Progress
from ggprune.runtime.compute import Compute
from ggprune.runtime.workers import KindInfo


@dataclass(frozen=True, kw_only=True)
class EvalSetup(Setup):
    """Models that are measured; the last one is the base, if there is one."""

    has_base: bool
    n_ctx: int
    compute: Compute
    sample: bytes  # tokens of the first chunk

    def engine(self, models: Sequence[Model], place: Place) -> Engine:
        return EvalEngine(models, self, place)


@dataclass(frozen=True)
class GroupTask:
    """Chunks that are computed together."""

    first: int
    n_chunk: int
    tokens: bytes


class EvalEngine:
    """All models of an evaluation, loaded."""

    said = None
    n_slot = 1  # however many threads a worker has

    def __init__(self, models: Sequence[Model], setup: EvalSetup, place: Place) -> None:
        self._setup, self._lock = setup, threading.Lock()
        paths = [model.path for model in models]
        base = paths.pop() if setup.has_base else None
        compute = replace(setup.compute, n_threads=place.threads, rpc=place.rpc)
        self._readers = Readers(paths, base, setup.n_ctx, compute)

    @cached_property
    def bits(self) -> str:
        first, again = (blake3(b"".join(x.tobytes() for x in self.probe())) for _ in range(2))
        if first.digest() != again.digest():
            raise LlamaError("does not repeat itself: the same chunk gave other logits")
        return first.hexdigest(16)

    def probe(self) -> Sequence[Float32]:
        chunk = Chunks(np.frombuffer(self._setup.sample, np.int32).reshape(1, -1))
        with self._lock:
            pieces = [[p.logits[0].copy() for p in r.pieces(chunk)] for r in self._readers.all]
        return [np.concatenate(each) for each in pieces]

    def answer(self, task: object) -> tuple[Scored, ...]:
        assert isinstance(task, GroupTask)
        tokens = np.frombuffer(task.tokens, np.int32).reshape(task.n_chunk, -1)
        with self._lock:
            return self._readers.read(Chunks(tokens, task.first))

    def close(self) -> None:
        self._readers.__exit__()


def evaluate_groups(
    crew: Crew, chunks: Chunks, setup: EvalSetup, progress: Progress
) -> tuple[list[tuple[Scored, ...]], tuple[KindInfo, ...]]:
    """What every model does on each group of chunks, in order; a group is computed by one worker.

    And which chunks were computed by what kind of worker, where there are several.
    """
    crew.gather()
    groups = list(chunks.groups(n_together(setup.n_ctx, setup.compute)))
    tasks = [GroupTask(g.first, len(g), g.tokens.tobytes()) for g in groups]
    count, found = Count(len(setup.models), chunks, progress), []
    bits_of: dict[int, str] = {}
    answers = in_order(crew, tasks, lambda i: f"chunks from {groups[i].first} on")
    for group, (answer, info) in zip(groups, answers, strict=True):
        assert isinstance(answer, tuple)
        count.add(len(group) * len(setup.models))
        info.n_pass += len(setup.models)
        info.n_chunk += len(group)
        bits_of |= dict.fromkeys(range(group.first, group.first + len(group)), info.bits)
        found.append(answer)
    return found, kind_infos(crew, bits_of)
