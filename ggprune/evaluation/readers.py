"""Models that read the same chunks side by side, batch by batch as llama-perplexity reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggprune.evaluation.baselogits import BaseFile, StoredLogits
from ggprune.metrics.chunks import Chunks, n_scored
from ggprune.metrics.estimates import Float64
from ggprune.metrics.logits import BaseLogits, Comparison, TokenScores, score_tokens
from ggprune.progress import Progress
from ggprune.runtime.compute import Compute
from ggprune.runtime.finite import naming
from ggprune.runtime.library import default_threads
from ggprune.runtime.sequences import MAX_SEQ
from ggprune.runtime.session import LlamaModel, Logits, Session


@dataclass(frozen=True)
class Scored:
    """One model on the scored tokens of some chunks, in their order; what is compared is None
    where there is no base model. All are (n_token,)."""

    nll: Float64  # nats
    base_nll: Float64 | None
    kld: Float64 | None
    delta_p: Float64 | None
    same_top: NDArray[np.bool_] | None


@dataclass(frozen=True)
class Piece:
    """Some of the scored tokens of chunks that are computed together."""

    rows: slice  # of each chunk's scored tokens
    logits: Logits  # (n_seq, n_row, n_vocab)


Bases = Sequence[BaseLogits] | Sequence[StoredLogits] | None


class Count:
    """Scored tokens of all models so far, for whoever is told."""

    def __init__(self, n_model: int, chunks: Chunks, progress: Progress) -> None:
        self.n_scored = n_scored(chunks.n_ctx)  # of a chunk
        self.done, self.total = 0, n_model * len(chunks) * self.n_scored
        self.progress = progress
        models = "1 model" if n_model == 1 else f"{n_model} models"
        progress.begin(f"{models} on {len(chunks)} chunks of {chunks.n_ctx} tokens")

    def through(self, group: Chunks, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """Pieces as they are computed."""
        for piece in pieces:
            self._add(len(group) * (piece.rows.stop - piece.rows.start))
            yield piece

    def add(self, n_chunk: int) -> None:
        """Whole chunks, of one model each."""
        self._add(n_chunk * self.n_scored)

    def _add(self, n_token: int) -> None:
        self.done += n_token
        self.progress.step(self.done, self.total)


def n_together(n_ctx: int, compute: Compute) -> int:
    """Chunks that are computed together."""
    return min(max(1, compute.n_batch // n_ctx), MAX_SEQ)


class Reader:
    """A model and a session for as many chunks at once as a batch holds."""

    def __init__(self, path: Path, n_ctx: int, compute: Compute) -> None:
        self.n_seq = n_together(n_ctx, compute)
        self.n_threads = compute.n_threads or default_threads()
        self.model = LlamaModel(path, compute)
        self.n_ctx, self.compute = n_ctx, compute

    @cached_property
    def session(self) -> Session:
        """Made when it is first used: the memory of a context is not taken in vain."""
        return Session(self.model, self.n_ctx, n_seq=self.n_seq, compute=self.compute)

    def close(self) -> None:
        if "session" in vars(self):
            self.session.close()
        self.model.close()

    def pieces(self, group: Chunks) -> Iterator[Piece]:
        """Of the scored tokens of all chunks; each is valid until the next one."""
        n_scored = group[0].n_output - 1  # nobody knows what comes behind the last token
        for rows, logits in self.session.logit_pieces(group.tokens, n_scored + 1):
            stop = min(rows.stop, n_scored)
            if rows.start < stop:
                yield Piece(slice(rows.start, stop), logits[:, : stop - rows.start])

    def bases(self, group: Chunks, piece: Piece) -> list[BaseLogits]:
        """What others are compared with, for each chunk, while the piece is valid."""
        with naming(self.model.path):
            return [
                BaseLogits(logits, score_tokens(logits, chunk.targets[piece.rows], self.n_threads))
                for chunk, logits in zip(group, piece.logits, strict=True)
            ]


class Subject(Reader):
    """A model that is measured."""

    def __init__(self, path: Path, n_ctx: int, compute: Compute) -> None:
        super().__init__(path, n_ctx, compute)
        self.save: Callable[[Logits], object] | None = None
        self._scores: list[list[TokenScores]] = []  # by chunk, of each piece
        self._compared: list[list[Comparison]] = []

    def begin(self, group: Chunks) -> None:
        self._scores, self._compared = [[] for _ in group], [[] for _ in group]

    def read(self, group: Chunks, piece: Piece, bases: Bases) -> None:
        with naming(self.model.path):
            for i, (chunk, logits) in enumerate(zip(group, piece.logits, strict=True)):
                targets = chunk.targets[piece.rows]
                if self.save is not None:
                    self.save(logits)
                if bases is None:
                    self._scores[i].append(score_tokens(logits, targets, self.n_threads))
                else:
                    self._compared[i].append(bases[i].compare(logits, targets, self.n_threads))

    def scored(self) -> Scored:
        """Since the last `begin`."""
        if not any(self._compared):
            nll = [scores.nll for chunk in self._scores for scores in chunk]
            return Scored(np.concatenate(nll), None, None, None, None)
        compared = [comparison for chunk in self._compared for comparison in chunk]
        return Scored(
            np.concatenate([c.scores.nll for c in compared]),
            np.concatenate([c.base.nll for c in compared]),
            np.concatenate([c.kld for c in compared]),
            np.concatenate([c.delta_p for c in compared]),
            np.concatenate([c.same_top for c in compared]),
        )


class Readers:
    """Models that are measured, and one that they are compared with, if there is one. Use as a
    context manager."""

    def __init__(
        self, paths: Sequence[Path], base: Path | None, n_ctx: int, compute: Compute
    ) -> None:
        """Raises LlamaError if llama.cpp cannot load a model."""
        with ExitStack() as stack:
            self.subjects = [
                stack.enter_context(closing(Subject(path, n_ctx, compute))) for path in paths
            ]
            self.reference = (
                stack.enter_context(closing(Reader(base, n_ctx, compute))) if base else None
            )
            self._stack = stack.pop_all()

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def all(self) -> list[Reader]:
        return [*([self.reference] if self.reference is not None else []), *self.subjects]

    @property
    def n_seq(self) -> int:
        """Chunks that are computed together."""
        return self.subjects[0].n_seq

    def read(
        self, group: Chunks, stored: BaseFile | None = None, count: Count | None = None
    ) -> tuple[Scored, ...]:
        """Each of the subjects on some chunks, beside the reference or stored logits.

        Raises LlamaError if llama.cpp cannot compute one.
        """
        for subject in self.subjects:
            subject.begin(group)
        pieces_of = (
            count.through(group, reader.pieces(group)) if count else reader.pieces(group)
            for reader in self.all
        )  # fmt: skip
        for pieces in zip(*pieces_of, strict=True):
            bases: Bases = None
            if stored is not None:
                bases = stored.bases(group, pieces[0].rows)
            elif self.reference is not None:
                bases = self.reference.bases(group, pieces[0])
            for subject, piece in zip(self.subjects, pieces[-len(self.subjects) :], strict=True):
                subject.read(group, piece, bases)
        return tuple(subject.scored() for subject in self.subjects)
