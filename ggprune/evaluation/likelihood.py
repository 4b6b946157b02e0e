"""Log-likelihoods of texts given texts, as evaluation harnesses ask for them.

Requests with the same context are decoded together: the context once, its continuations behind it.
What does not fit loses its beginning, as lm-eval does it. Knows nothing of tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ggprune.errors import DataError
from ggprune.evaluation.trees import Query, Tree, answer, ask_branches, by_branch
from ggprune.progress import SILENT, Progress
from ggprune.runtime.sequences import SharedSession
from ggprune.runtime.session import LlamaModel, Tokens
from ggprune.runtime.vocabulary import Vocabulary


@dataclass(frozen=True)
class Likelihood:
    """log p of a continuation in nats, and whether greedy generation would have written it."""

    log_p: float
    is_greedy: bool


def split_pair(model: LlamaModel, context: str, continuation: str) -> tuple[Tokens, Tokens]:
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
    session: SharedSession,
    pairs: Sequence[tuple[Tokens, Tokens]],
    n_ctx: int,
    progress: Progress = SILENT,
) -> list[Likelihood]:
    """Of (context, continuation), in their order; at most `n_ctx` tokens of each are read."""
    fitted = [_fit(context, continuation, n_ctx) for context, continuation in pairs]
    trees = _groups([context.tobytes() for context, _ in fitted], session.n_seq)
    trees = [part for group in trees for part in _by_room(fitted, group, session.n_cell)]
    queries = [_ask(fitted, group) for group in trees]
    by_place: dict[int, Likelihood] = {}
    for group, query, said in zip(trees, queries, answer(session, queries, progress), strict=True):
        log_p, is_top = by_branch(query.tree, said.log_p), by_branch(query.tree, said.is_top)
        for place, values, tops in zip(group, log_p, is_top, strict=True):
            by_place[place] = Likelihood(float(np.sum(values)), bool(np.all(tops)))
    return [by_place[i] for i in range(len(pairs))]


def _fit(context: Tokens, continuation: Tokens, n_ctx: int) -> tuple[Tokens, Tokens]:
    """The end of the context that has room; the last token of a continuation is never read."""
    room = n_ctx + 1 - len(continuation)
    if room < 1:
        raise DataError(
            f"a continuation has {len(continuation)} tokens, the context {n_ctx}: use a larger -c"
        )
    return context[-room:], continuation


def _groups(keys: Sequence[bytes], n_max: int) -> list[list[int]]:
    """Places of equal keys, at most `n_max` together, in the order of their first."""
    groups: dict[bytes, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    return [g[at : at + n_max] for g in groups.values() for at in range(0, len(g), n_max)]


def _by_room(
    pairs: Sequence[tuple[Tokens, Tokens]], group: Sequence[int], n_cell: int
) -> list[list[int]]:
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


def _ask(pairs: Sequence[tuple[Tokens, Tokens]], group: Sequence[int]) -> Query:
    context = pairs[group[0]][0]
    return ask_branches(Tree(context, tuple(pairs[i][1] for i in group)))


def rolling_windows(tokens: Tokens, start: int, n_ctx: int) -> list[tuple[Tokens, Tokens]]:
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
