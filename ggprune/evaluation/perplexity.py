"""Perplexity of a model, and its distance from another one, as llama-perplexity measures them.

Chunks of n_ctx tokens, BOS first, second half scored; n_batch / n_ctx chunks per batch. Both models
are loaded at once and read the same tokens, so no logits need to be stored.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ggprune.errors import DataError
from ggprune.evaluation.statistics import Divergence, divergence
from ggprune.runtime.library import default_threads, versions
from ggprune.runtime.session import Compute, LlamaModel, Logits, Session
from ggprune.scoring.metrics import (
    BaseLogits,
    Comparison,
    Estimate,
    TokenScores,
    base_logits,
    compare,
    ppl_estimate,
    score_tokens,
)
from ggprune.scoring.text import Text, Tokens, describe_text, make_chunks, n_scored

MAX_SEQ = 256  # LLAMA_MAX_SEQ

Progress = Callable[[int, int], object]  # done, total


@dataclass(frozen=True)
class Evaluation:
    """One model on one text; `divergence` where it was compared with a base model."""

    path: str
    text: dict[str, Any]
    ppl: Estimate
    divergence: Divergence | None
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return {
            "model": {"path": self.path},
            "text": self.text,
            "ppl": self.ppl.to_json(),
            "divergence": self.divergence.to_json() if self.divergence else None,
            "versions": self.versions,
        }


def evaluate(
    paths: Sequence[Path],
    text: Text,
    *,
    base: Path | None = None,
    n_ctx: int = 512,
    n_chunk: int | None = None,
    compute: Compute | None = None,
    progress: Progress | None = None,
) -> tuple[Evaluation, ...]:
    """Perplexity of every model; with `base` also how far each is from that model, computed once.

    Raises DataError if the text is too short or the models read it as different tokens, LlamaError
    if llama.cpp cannot load or compute a model.
    """
    compute = compute or Compute()
    n_threads = compute.n_threads or default_threads()
    with contextlib.ExitStack() as stack:
        subjects = [stack.enter_context(_Reader(path, n_ctx, compute)) for path in paths]
        reference = stack.enter_context(_Reader(base, n_ctx, compute)) if base else None
        first = reference or subjects[0]
        chunks = make_chunks(text, first.model.tokenize, n_ctx, n_chunk)
        for subject in subjects:
            _check_same_tokens(subject.model, first.model, text)
        tallies = [_Tally(n_threads) for _ in subjects]
        for group in first.groups(chunks):
            base_scores = _score_base(reference, group, n_threads) if reference else None
            for subject, tally in zip(subjects, tallies, strict=True):
                tally.add(group, subject.logits(group), base_scores)
            if progress is not None:
                progress(tallies[0].n_chunk, len(chunks))
    about_text = describe_text(text, n_ctx, len(chunks))
    return tuple(
        Evaluation(str(path), about_text, tally.ppl(), tally.divergence(), versions())
        for path, tally in zip(paths, tallies, strict=True)
    )


def _score_base(reference: _Reader, group: Tokens, n_threads: int) -> list[BaseLogits]:
    rows = reference.logits(group)
    return [base_logits(rows[i], _targets(chunk), n_threads) for i, chunk in enumerate(group)]


def _targets(chunk: Tokens) -> Tokens:
    """The tokens to predict: those behind the scored ones."""
    return chunk[len(chunk) // 2 + 1 :]


class _Reader:
    """A model and a session for as many chunks at once as a batch holds."""

    def __init__(self, path: Path, n_ctx: int, compute: Compute) -> None:
        self.n_seq = min(max(1, compute.n_batch // n_ctx), MAX_SEQ)
        self.model = LlamaModel(path, compute)
        self.n_ctx, self.compute = n_ctx, compute

    @cached_property
    def session(self) -> Session:
        """Made when it is first used: the memory of a context is not taken in vain."""
        return Session(self.model, self.n_ctx, n_seq=self.n_seq, compute=self.compute)

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        if "session" in vars(self):
            self.session.close()
        self.model.close()

    def groups(self, chunks: Tokens) -> Iterator[Tokens]:
        for start in range(0, len(chunks), self.n_seq):
            yield chunks[start : start + self.n_seq]

    def logits(self, group: Tokens) -> Logits:
        """Logits of the scored tokens, (n_seq, n_scored, n_vocab), valid until the next call."""
        n_ctx = group.shape[1]
        return self.session.chunk_logits(group, n_ctx - n_ctx // 2)[:, : n_scored(n_ctx)]


class _Tally:
    """Per-token scores of all chunks so far."""

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads
        self.n_chunk = 0
        self.scores: list[TokenScores] = []
        self.base: list[TokenScores] = []
        self.compared: list[Comparison] = []

    def add(self, group: Tokens, logits: Logits, base: list[BaseLogits] | None) -> None:
        """Logits of the scored tokens of a group of chunks, (n_seq, n_scored, n_vocab)."""
        for i, chunk in enumerate(group):
            targets = _targets(chunk)
            if base is None:
                self.scores.append(score_tokens(logits[i], targets, self.n_threads))
            else:
                comparison = compare(base[i], logits[i], targets, self.n_threads)
                self.scores.append(comparison.scores)
                self.base.append(base[i].scores)
                self.compared.append(comparison)
            self.n_chunk += 1

    def ppl(self) -> Estimate:
        return ppl_estimate(np.concatenate([s.nll for s in self.scores]))

    def divergence(self) -> Divergence | None:
        if not self.compared:
            return None
        return divergence(
            nll=np.concatenate([s.nll for s in self.scores]),
            base_nll=np.concatenate([s.nll for s in self.base]),
            kld=np.concatenate([c.kld for c in self.compared]),
            delta_p=np.concatenate(
                [s.p - b.p for s, b in zip(self.scores, self.base, strict=True)]
            ),
            same_top=np.concatenate([c.same_top for c in self.compared]),
        )


def _check_same_tokens(model: LlamaModel, base: LlamaModel, text: Text) -> None:
    if model.n_vocab != base.n_vocab:
        raise DataError(
            f"{model.path} has {model.n_vocab} tokens, {base.path} has {base.n_vocab}: "
            "their probabilities cannot be compared"
        )
    if not np.array_equal(model.tokenize(text.content), base.tokenize(text.content)):
        raise DataError(f"{model.path} and {base.path} split the text into different tokens")
