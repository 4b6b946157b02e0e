"""What travels between the coordinator and workers: small, and sent as it is.

Workers need no text: a task brings its tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ggprune.cluster.place import Place
from ggprune.metrics.chunks import Chunk, Tokens
from ggprune.model.cut import Cut
from ggprune.model.model import Model
from ggprune.runtime.workers import WorkerInfo
from ggprune.scoring.rows import BaseRows, Effort, Rows


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """A model as the coordinator knows it."""

    paths: tuple[str, ...]
    fingerprint: str


def files_of(model: Model) -> ModelFiles:
    paths = tuple(str(file.path.absolute()) for file in model.files)
    return ModelFiles(paths=paths, fingerprint=model.fingerprint)


class Engine(Protocol):
    """What answers in a worker: loaded models."""

    n_slot: int  # tasks that it computes at once

    @property
    def bits(self) -> str:
        """Hash of what it computes on a probe. Raises LlamaError if it does not repeat itself."""

    def probe(self) -> Tokens | Sequence[np.ndarray]:
        """Logits of the probe, (n_token, n_vocab) each."""

    def answer(self, task: object) -> object: ...

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Setup(ABC):
    """All that the numbers depend on. It names the state of a worker."""

    ggprune: str  # version
    build: str  # commit of llama.cpp's ggml
    models: tuple[ModelFiles, ...]

    @abstractmethod
    def engine(self, models: Sequence[Model], place: Place) -> Engine:
        """Load the models, in a worker."""


@dataclass(frozen=True, kw_only=True)
class Introduction:
    """Who a worker is, once its models are loaded."""

    info: WorkerInfo
    said: object  # of the engine: what the coordinator does not know
    n_slot: int  # tasks at once


@dataclass(frozen=True)
class Refusal:
    """Why a worker cannot take part."""

    reason: str


@dataclass(frozen=True)
class Answer:
    """What came of a task, and by what kind of worker."""

    value: object
    bits: str


@dataclass(frozen=True, kw_only=True)
class ChunkTask:
    """A chunk without each of some cuts."""

    number: int
    tokens: bytes
    cuts: tuple[Cut, ...]
    within: Cut
    with_base: bool  # the whole model's rows as well

    @property
    def chunk(self) -> Chunk:
        return Chunk(self.number, np.frombuffer(self.tokens, np.int32))


@dataclass(frozen=True, kw_only=True)
class ChunkAnswer:
    """Token by token."""

    rows: tuple[Rows, ...]
    base: BaseRows | None
    effort: Effort = field(default_factory=Effort)
