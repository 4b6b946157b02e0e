"""Log-likelihoods of texts given texts, as evaluation harnesses ask for them.

Requests with the same context are decoded together: the context once, its continuations behind it.
What does not fit loses its beginning, as lm-eval does it. Knows nothing of tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ggprune.errors import DataError
from ggprune.evaluation.trees import Tree, answer, ask_branches, by_branch
from ggprune.progress import SILENT, Progress
from ggprune.runtime.sequences import SharedSession
from ggprune.runtime.session import LlamaModel, Tokens
from ggprune.runtime.vocabulary import Vocabulary

Pair = tuple[Tokens, Tokens]  # context, continuation


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
) -> list[tuple[float, bool]]:
    """log p of each continuation in nats, and whether greedy generation would have written it.

    In the order of the pairs; at most `n_ctx` tokens of each are read.
    """
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
    by_place: dict[int, tuple[float, bool]] = {}
    for group, query, said in zip(groups, queries, answer(session, queries, progress), strict=True):
        log_p, is_top = by_branch(query.tree, said.log_p), by_branch(query.tree, said.is_top)
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
