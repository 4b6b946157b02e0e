"""Probabilities of continuations: sequences that begin alike are decoded together, once.

This is what choice tasks, lm-eval and perplexity of single texts have in common. Knows tokens only;
where they come from and what is made of the numbers is the callers' business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ggprune.errors import DataError
from ggprune.metrics.estimates import Float64
from ggprune.metrics.logits import log_sum_exp
from ggprune.progress import SILENT, Progress
from ggprune.runtime.sequences import Entries, SharedSession, join
from ggprune.runtime.session import Logits, Tokens

Rows = NDArray[np.int64]
V = TypeVar("V", bound=np.generic)


@dataclass(frozen=True)
class Tree:
    """Sequences that begin alike. Row 0 of its logits follows the prefix; then every token of the
    first branch has a row, of the second, and so on."""

    prefix: Tokens  # (n,) at least one token
    branches: tuple[Tokens, ...]

    @property
    def n_cell(self) -> int:
        """Tokens that all of it takes."""
        return len(self.prefix) + sum(map(len, self.branches))

    def row(self, branch: int, position: int) -> int:
        """Where the token at `position` (from the start of the sequence) of a branch has its row;
        the last one of the prefix is row 0 for every branch."""
        index = position - len(self.prefix)
        return 0 if index < 0 else 1 + sum(map(len, self.branches[:branch])) + index


@dataclass(frozen=True)
class Query:
    """Which tokens' probabilities are asked, at which rows of the tree's logits."""

    tree: Tree
    rows: Rows  # (n_asked,)
    targets: Tokens  # (n_asked,)


@dataclass(frozen=True)
class Answer:
    """Log-probabilities of the tokens asked, and whether each was the most likely one."""

    log_p: Float64  # (n_asked,) nats
    is_top: NDArray[np.bool_]  # (n_asked,)


def common_prefix(sequences: Sequence[Tokens]) -> int:
    """Tokens that all sequences begin with, at most all but one of the shortest."""
    limit = min(map(len, sequences)) - 1
    same = np.stack([s[:limit] for s in sequences])
    differs = np.flatnonzero((same != same[0]).any(axis=0))
    return int(differs[0]) if len(differs) else limit


def tree_of(sequences: Sequence[Tokens]) -> Tree:
    n = common_prefix(sequences)
    return Tree(sequences[0][:n], tuple(s[n:] for s in sequences))


def ask_branches(tree: Tree) -> Query:
    """Ask for every token of every branch."""
    n = len(tree.prefix)
    rows = [
        tree.row(i, n + j - 1) for i, branch in enumerate(tree.branches) for j in range(len(branch))
    ]
    return Query(tree, np.array(rows, np.int64), np.concatenate(tree.branches))


def by_branch(tree: Tree, values: NDArray[V]) -> list[NDArray[V]]:
    """Cut what `ask_branches` was answered into the branches."""
    return np.split(values, np.cumsum([len(branch) for branch in tree.branches])[:-1])


def answer(
    session: SharedSession, queries: Sequence[Query], progress: Progress = SILENT
) -> list[Answer]:
    """Answers in the order of the queries; as many at once as the session has room for.

    Raises DataError if one does not fit alone.
    """
    answers: list[Answer] = []
    for pack in _packs(session, queries):
        answers += _answer_pack(session, pack)
        progress.step(len(answers), len(queries))
    return answers


def _packs(session: SharedSession, queries: Sequence[Query]) -> Iterator[list[Query]]:
    pack: list[Query] = []
    n_cell = n_seq = 0
    for i, query in enumerate(queries):
        tree = query.tree
        if tree.n_cell > session.n_cell or len(tree.branches) > session.n_seq:
            raise DataError(
                f"task {i} has {tree.n_cell} tokens in {len(tree.branches)} sequences, the context "
                f"has room for {session.n_cell} in {session.n_seq}: use a larger -c"
            )
        is_full = n_cell + tree.n_cell > session.n_cell
        if pack and (is_full or n_seq + len(tree.branches) > session.n_seq):
            yield pack
            pack, n_cell, n_seq = [], 0, 0
        pack.append(query)
        n_cell, n_seq = n_cell + tree.n_cell, n_seq + len(tree.branches)
    if pack:
        yield pack


def _answer_pack(session: SharedSession, pack: Sequence[Query]) -> list[Answer]:
    parts, n_seq = [], 0
    for query in pack:
        parts.append(_entries(query, n_seq, share=session.can_share))
        n_seq += len(query.tree.branches)
    outputs = [np.unique(query.rows, return_inverse=True) for query in pack]
    starts = np.cumsum([0, *(len(unique) for unique, _ in outputs)])
    rows = np.concatenate([place + s for (_, place), s in zip(outputs, starts[:-1], strict=True)])
    session.clear()
    whole = _look_up(session, join(parts), rows, np.concatenate([q.targets for q in pack]))
    cuts = np.cumsum([len(query.rows) for query in pack])[:-1]
    return [
        Answer(log_p, is_top)
        for log_p, is_top in zip(
            np.split(whole.log_p, cuts), np.split(whole.is_top, cuts), strict=True
        )
    ]


def _entries(query: Query, first: int, *, share: bool) -> Entries:
    """The tree's tokens for sequences `first` and on; what nobody asks behind is left out.

    Without `share` every sequence gets a prefix of its own, the first one with the output.
    """
    tree = query.tree
    asked = np.zeros(1 + tree.n_cell - len(tree.prefix), np.bool_)
    asked[query.rows] = True
    everyone = tuple(range(first, first + len(tree.branches)))
    parts = [_prefix(tree, everyone if share else everyone[:1], output=bool(asked[0]))]
    n, start = len(tree.prefix), 1
    for sequence, branch in zip(everyone, tree.branches, strict=True):
        if not share and sequence != first:
            parts.append(_prefix(tree, (sequence,), output=False))
        outputs = asked[start : start + len(branch)]
        length = int(np.flatnonzero(outputs)[-1]) + 1 if outputs.any() else 0
        positions = np.arange(n, n + length, dtype=np.int32)
        parts.append(Entries(branch[:length], positions, ((sequence,),) * length, outputs[:length]))
        start += len(branch)
    return join(parts)


def _prefix(tree: Tree, sequences: tuple[int, ...], *, output: bool) -> Entries:
    n = len(tree.prefix)
    outputs = np.zeros(n, np.bool_)
    outputs[-1] = output
    return Entries(tree.prefix, np.arange(n, dtype=np.int32), (sequences,) * n, outputs)


def _look_up(session: SharedSession, entries: Entries, rows: Rows, targets: Tokens) -> Answer:
    """rows: (n_asked,) indices of outputs, targets: (n_asked,)."""
    log_p, is_top = np.empty(len(rows)), np.empty(len(rows), np.bool_)
    for n_before, logits in session.decode_entries(entries):
        here = np.flatnonzero((rows >= n_before) & (rows < n_before + len(logits)))
        log_p[here], is_top[here] = _probabilities(
            logits, rows[here] - n_before, targets[here], session.n_threads
        )
    return Answer(log_p, is_top)


def _probabilities(
    logits: Logits, rows: Rows, targets: Tokens, n_threads: int
) -> tuple[Float64, NDArray[np.bool_]]:
    lse, top = log_sum_exp(logits, n_threads)
    return logits[rows, targets] - lse[rows], top[rows] == targets
