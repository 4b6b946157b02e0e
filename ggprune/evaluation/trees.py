"""Probabilities of continuations: sequences that begin alike are decoded together, once.

This is what choice tasks and lm-eval's likelihoods of texts given texts have in common; what does
not fit into a context loses its beginning, as lm-eval does it. Knows nothing of tasks; what is made
of the numbers is the callers' business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ggprune.errors import DataError
from ggprune.metrics.estimates import Float64
from ggprune.metrics.logits import log_sum_exp
from ggprune.progress import SILENT, Progress
from ggprune.runtime.finite import naming
from ggprune.runtime.sequences import Entries, SharedSession, join
from ggprune.runtime.session import LlamaModel, Tokens
from ggprune.runtime.vocabulary import Vocabulary

Rows = NDArray[np.int64]
Pair = tuple[Tokens, Tokens]  # context, continuation
Likelihood = tuple[float, bool]  # log p in nats, would greedy generation have written it?
V = TypeVar("V", bound=np.generic)
T = TypeVar("T")


@dataclass(frozen=True)
class Tree:
    """Sequences that begin alike. Row 0 of its logits follows the prefix; then every token of the
    first branch has a row, of the second, and so on."""

    prefix: Tokens  # (n,) at least one token
    branches: tuple[Tokens, ...]

    @property
    def n_cell(self) -> int:
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
    targets: tuple[Tokens, ...]  # of each branch, n_asked in all

    def by_branch(self, values: NDArray[V]) -> list[NDArray[V]]:
        """Cut (n_asked,) values into those of each branch."""
        return np.split(values, np.cumsum([len(tokens) for tokens in self.targets])[:-1])


@dataclass(frozen=True)
class Answer:
    """Log-probabilities of the tokens asked, and whether each was the most likely one."""

    log_p: Float64  # (n_asked,) nats
    is_top: NDArray[np.bool_]  # (n_asked,)


def tree_of(sequences: Sequence[Tokens]) -> Tree:
    """Its prefix is all that the sequences begin with, but leaves every branch a token."""
    limit = min(map(len, sequences)) - 1
    starts = np.stack([s[:limit] for s in sequences])
    differs = np.flatnonzero((starts != starts[0]).any(axis=0))
    n = int(differs[0]) if len(differs) else limit
    return Tree(sequences[0][:n], tuple(s[n:] for s in sequences))


def ask_branches(tree: Tree) -> Query:
    """Ask for every token of every branch."""
    lengths, last = map(len, tree.branches), len(tree.prefix) - 1
    rows = [tree.row(i, last + j) for i, n in enumerate(lengths) for j in range(n)]
    return Query(tree, np.array(rows, np.int64), tree.branches)


def answer(
    session: SharedSession, queries: Sequence[Query], progress: Progress = SILENT
) -> list[Answer]:
    """Answers in the order of the queries; as many at once as the session has room for.

    Raises DataError if one does not fit alone.
    """
    answers: list[Answer] = []
    for pack in packs(session, _sized(session, queries)):
        answers += _answer_pack(session, pack)
        progress.step(len(answers), len(queries))
    return answers


def packs(session: SharedSession, sized: Iterable[tuple[T, int, int]]) -> Iterator[list[T]]:
    """What fits into the session together, in its order; with each the cells and the sequences
    that it takes."""
    pack: list[T] = []
    n_cell = n_seq = 0
    for item, cells, sequences in sized:
        n_cell, n_seq = n_cell + cells, n_seq + sequences
        if pack and (n_cell > session.n_cell or n_seq > session.n_seq):
            yield pack
            pack, n_cell, n_seq = [], cells, sequences
        pack.append(item)
    if pack:
        yield pack


def _sized(session: SharedSession, queries: Sequence[Query]) -> Iterator[tuple[Query, int, int]]:
    for i, query in enumerate(queries):
        n_cell, n_seq = query.tree.n_cell, len(query.tree.branches)
        if n_cell > session.n_cell or n_seq > session.n_seq:
            raise DataError(
                f"task {i} has {n_cell} tokens in {n_seq} sequences, the context "
                f"has room for {session.n_cell} in {session.n_seq}: use a larger -c"
            )
        yield query, n_cell, n_seq


def _answer_pack(session: SharedSession, pack: Sequence[Query]) -> list[Answer]:
    parts, n_seq = [], 0
    for query in pack:
        parts.append(_entries(query, n_seq, share=session.can_share))
        n_seq += len(query.tree.branches)
    outputs = [np.unique(query.rows, return_inverse=True) for query in pack]
    starts = np.cumsum([0, *(len(unique) for unique, _ in outputs)])
    rows = np.concatenate([place + s for (_, place), s in zip(outputs, starts[:-1], strict=True)])
    targets = np.concatenate([tokens for query in pack for tokens in query.targets])
    log_p, is_top = np.empty(len(rows)), np.empty(len(rows), np.bool_)
    session.clear()
    for n_before, logits in session.decode_entries(join(parts)):
        with naming(session.model.path):
            lse, top = log_sum_exp(logits, session.n_threads)
        here = np.flatnonzero((rows >= n_before) & (rows < n_before + len(logits)))
        places = rows[here] - n_before
        log_p[here] = logits[places, targets[here]] - lse[places]
        is_top[here] = top[places] == targets[here]
    cuts = np.cumsum([len(query.rows) for query in pack])[:-1]
    return list(map(Answer, np.split(log_p, cuts), np.split(is_top, cuts)))


def _entries(query: Query, first: int, *, share: bool) -> Entries:
    """The tree's tokens for sequences `first` and on; what nobody asks behind is left out.

    Without `share` every sequence gets a prefix of its own, the first one with the output.
    """
    tree = query.tree
    asked = np.zeros(1 + tree.n_cell - len(tree.prefix), np.bool_)
    asked[query.rows] = True
    everyone = tuple(range(first, first + len(tree.branches)))
    n, start = len(tree.prefix), 1
    behind = (np.arange(n) == n - 1) & asked[0]
    parts = [entries_from(0, tree.prefix, everyone if share else everyone[:1], behind)]
    for sequence, branch in zip(everyone, tree.branches, strict=True):
        if not share and sequence != first:
            parts.append(entries_from(0, tree.prefix, (sequence,), np.zeros(n, np.bool_)))
        outputs = asked[start : start + len(branch)]
        length = int(np.flatnonzero(outputs)[-1]) + 1 if outputs.any() else 0
        parts.append(entries_from(n, branch[:length], (sequence,), outputs[:length]))
        start += len(branch)
    return join(parts)


def entries_from(
    start: int, tokens: Tokens, sequences: tuple[int, ...], outputs: NDArray[np.bool_]
) -> Entries:
    """Tokens that follow each other in all of `sequences`, from position `start`."""
    positions = np.arange(start, start + len(tokens), dtype=np.int32)
    return Entries(tokens, positions, (sequences,) * len(tokens), outputs)


def split_pair(model: LlamaModel, context: str, continuation: str) -> Pair:
    """Tokens of both; the text is tokenized as a whole, white space belongs to what follows it.

    An empty context is the token that texts begin with. Raises DataError for no continuation.
    """
    if not continuation:
        raise DataError("a continuation is empty: it has no likelihood")
    if not context:
        tokens = without_bos(model, model.tokenize(continuation))
        return np.array([Vocabulary(model).start], np.int32), tokens
    stripped = context.rstrip()
    whole = model.tokenize(context + continuation)
    n = min(max(len(model.tokenize(stripped)), 1), len(whole) - 1)
    return whole[:n], whole[n:]


def without_bos(model: LlamaModel, tokens: Tokens) -> Tokens:
    has_bos = model.bos is not None and len(tokens) > 0 and tokens[0] == model.bos
    return tokens[1:] if has_bos else tokens


def loglikelihoods(
    session: SharedSession, pairs: Sequence[Pair], n_ctx: int, progress: Progress = SILENT
) -> list[Likelihood]:
    """Of each continuation, in the order of the pairs; at most `n_ctx` tokens of each are read."""
    fitted = [_fit(pair, n_ctx) for pair in pairs]
    by_context: dict[bytes, list[int]] = {}
    for i, (context, _) in enumerate(fitted):
        by_context.setdefault(context.tobytes(), []).append(i)
    groups: list[list[int]] = []
    for places in by_context.values():
        for at in range(0, len(places), session.n_seq):
            groups += _by_room(fitted, places[at : at + session.n_seq], session.n_cell)
    queries = [
        ask_branches(Tree(fitted[group[0]][0], tuple(fitted[i][1] for i in group)))
        for group in groups
    ]
    by_place: dict[int, Likelihood] = {}
    for group, query, said in zip(groups, queries, answer(session, queries, progress), strict=True):
        log_p, is_top = query.by_branch(said.log_p), query.by_branch(said.is_top)
        for place, values, tops in zip(group, log_p, is_top, strict=True):
            by_place[place] = float(np.sum(values)), bool(np.all(tops))
    return [by_place[i] for i in range(len(pairs))]


def _fit(pair: Pair, n_ctx: int) -> Pair:
    """The end of the context that has room; the last token of a continuation is never read."""
    context, continuation = pair
    room = n_ctx + 1 - len(continuation)
    if room < 1:
        raise DataError(
            f"a continuation has {len(continuation)} tokens, the context {n_ctx}: use a larger -c"
        )
    return context[-room:], continuation


def _by_room(pairs: Sequence[Pair], group: Sequence[int], n_cell: int) -> list[list[int]]:
    """A group cut so that each part fits into the session."""
    parts: list[list[int]] = []
    used = n_cell + 1
    for i in group:
        context, continuation = pairs[i]
        if used + len(continuation) > n_cell:
            parts.append([])
            used = len(context)
        parts[-1].append(i)
        used += len(continuation)
    return parts


def rolling_windows(tokens: Tokens, start: int, n_ctx: int) -> list[Pair]:
    """A whole text as (context, continuation) pairs that score every token once.

    The first window begins with the token `start`; later ones follow the last token read, and the
    last one takes as much context as fits (lm-eval's disjoint windows).
    """
    text = np.concatenate([[start], tokens]).astype(np.int32)  # each is predicted by those before
    pairs, n = [], len(tokens)
    for at in range(0, n, n_ctx):
        end = min(at + n_ctx, n)
        first = 0 if at == 0 else end - n_ctx
        pairs.append((text[first : at + 1], text[at + 1 : end + 1]))
    return pairs
