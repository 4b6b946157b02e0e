"""Greedy continuations of many prompts at once: the most likely token, until the text ends.

Knows nothing of what the texts are for. A prompt that does not fit loses its beginning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ggprune.errors import DataError, NonFiniteError
from ggprune.evaluation.trees import entries_from, packs
from ggprune.metrics.logits import NOT_FINITE
from ggprune.progress import SILENT, Progress
from ggprune.runtime.finite import naming
from ggprune.runtime.sequences import Entries, SharedSession, join
from ggprune.runtime.session import Tokens
from ggprune.runtime.vocabulary import Vocabulary


@dataclass(frozen=True)
class Continuation:
    """What a model wrote behind a prompt, without the stop string or the token that ended it."""

    text: str
    tokens: tuple[int, ...]
    has_ended: bool  # the model ended the text itself


@dataclass(frozen=True)
class Wish:
    """A prompt to continue: at most `n_predict` tokens, up to the first of the stop strings."""

    prompt: Tokens
    n_predict: int
    stop: tuple[str, ...] = ()


def generate(
    session: SharedSession, wishes: Sequence[Wish], progress: Progress = SILENT
) -> list[Continuation]:
    """In the order of the wishes. Raises DataError if n_predict alone does not fit."""
    vocabulary = Vocabulary(session.model)
    done: list[Continuation] = []
    for group in packs(session, _sized(session, wishes)):
        session.clear()
        texts = [_Writing(i, wish, vocabulary) for i, wish in enumerate(group)]
        while still := [text for text in texts if text.is_open]:
            _add_tokens(session, still)
        done += [text.finish() for text in texts]
        progress.step(len(done), len(wishes))
    return done


def _sized(session: SharedSession, wishes: Sequence[Wish]) -> Iterator[tuple[Wish, int, int]]:
    for wish in wishes:
        room = session.n_cell - wish.n_predict
        if room < 1:
            raise DataError(
                f"{wish.n_predict} tokens are to be generated, the context has room for "
                f"{session.n_cell}: use a larger -c"
            )
        fitted = replace(wish, prompt=wish.prompt[-room:])
        yield fitted, len(fitted.prompt) + wish.n_predict, 1


class _Writing:
    """One text on its way."""

    def __init__(self, sequence: int, wish: Wish, vocabulary: Vocabulary) -> None:
        self.sequence, self.wish, self.vocabulary = sequence, wish, vocabulary
        self.tokens: list[int] = []
        self.data = b""
        self.has_ended = False
        self.is_open = wish.n_predict > 0

    def add(self, token: int) -> None:
        if self.vocabulary.is_end(token):
            self.has_ended, self.is_open = True, False
            return
        self.tokens.append(token)
        self.data += self.vocabulary.piece(token)
        stopped = any(stop.encode() in self.data for stop in self.wish.stop)
        self.is_open = len(self.tokens) < self.wish.n_predict and not stopped

    def entries(self) -> Entries:
        """The prompt, or the token written last; logits behind it."""
        tokens = np.array(self.tokens[-1:], np.int32) if self.tokens else self.wish.prompt
        end = len(self.wish.prompt) + len(self.tokens)
        is_last = np.arange(len(tokens)) == len(tokens) - 1
        return entries_from(end - len(tokens), tokens, (self.sequence,), is_last)

    def finish(self) -> Continuation:
        text = self.data.decode("utf-8", "replace")
        ends = [at for at in map(text.find, self.wish.stop) if at >= 0]
        return Continuation(text[: min(ends, default=None)], tuple(self.tokens), self.has_ended)


def _add_tokens(session: SharedSession, texts: Sequence[_Writing]) -> None:
    """To each text the most likely one."""
    chosen: list[int] = []
    with naming(session.model.path):
        for _, logits in session.decode_entries(join([text.entries() for text in texts])):
            if not np.isfinite(logits).all():
                raise NonFiniteError(NOT_FINITE)
            chosen += logits.argmax(axis=1).tolist()
    for text, token in zip(texts, chosen, strict=True):
        text.add(token)
