from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ggprune.errors import DataError
from ggprune.evaluation.generate import Wish, generate
from ggprune.evaluation.trees import (
    answer,
    ask_branches,
    loglikelihoods,
    rolling_windows,
    split_pair,
    tree_of,
    without_bos,
)
from ggprune.metrics.estimates import Float64
from ggprune.runtime.sequences import SharedSession
from ggprune.runtime.session import LlamaModel, Session, Tokens
from tests.conftest import FIXTURES, TINY
from tests.helpers import ONE_GRAPH
from tests.random_models import make_random_model


def direct(model: LlamaModel, tokens: Tokens) -> Float64:
    """log p of every token but the first, each sequence computed alone."""
    with Session(model, max(len(tokens), 32), compute=ONE_GRAPH) as session:
        logits = session.chunk_logits(tokens[None, :], len(tokens), bos=False)[0].astype(float)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    found: Float64 = log_p[np.arange(len(tokens) - 1), tokens[1:]]
    return found


def sequences(n_vocab: int, seed: int = 0) -> list[Tokens]:
    """Three of different lengths that share their first 12 tokens."""
    rng = np.random.default_rng(seed)
    found = [rng.integers(0, n_vocab, n, dtype=np.int32) for n in (20, 24, 31)]
    for tokens in found:
        tokens[:12] = found[0][:12]
    return found


@pytest.mark.parametrize("arch", ["llama", "gemma3", "mamba", "jamba", "lfm2moe"])
def test_trees_give_what_each_sequence_gives_alone(arch: str, tmp_path: Path) -> None:
    """Whatever the memory is made of: attention, windows, recurrent states, or both."""
    path = make_random_model(FIXTURES / "arch" / f"{arch}.gguf", tmp_path / "m.gguf")
    with LlamaModel(path, ONE_GRAPH) as model:
        tries = [sequences(model.n_vocab, seed) for seed in (0, 1)]
        queries = [ask_branches(tree_of(group)) for group in tries]
        with SharedSession(model, 512, n_seq=8, compute=ONE_GRAPH) as session:
            answers = answer(session, queries)
        for group, query, said in zip(tries, queries, answers, strict=True):
            assert len(query.tree.prefix) == 12
            for tokens, log_p in zip(group, query.by_branch(said.log_p), strict=True):
                alone = direct(model, tokens)[11:]
                assert log_p == pytest.approx(alone, abs=1e-3)


def test_trees_of_the_trained_model() -> None:
    with LlamaModel(TINY, ONE_GRAPH) as model:
        group = sequences(model.n_vocab)
        tree = tree_of(group)
        with SharedSession(model, 64, n_seq=3, compute=ONE_GRAPH) as session:  # two packs
            queries = [ask_branches(tree)] * 2
            one, two = answer(session, queries)
            assert np.array_equal(one.log_p, two.log_p)
            with pytest.raises(DataError, match="use a larger -c"):
                answer(session, [ask_branches(tree_of([t.repeat(3) for t in group]))])
        expected = np.concatenate([direct(model, tokens)[11:] for tokens in group])
    assert one.log_p == pytest.approx(expected, abs=0.02)


def test_a_prefix_leaves_every_branch_a_token() -> None:
    a = np.arange(5, dtype=np.int32)
    assert len(tree_of([a, a[:3]]).prefix) == 2
    assert len(tree_of([a, a + 1]).prefix) == 0
    assert [len(b) for b in tree_of([a, a[:3]]).branches] == [3, 1]


def test_likelihoods_and_greedy_continuations_agree() -> None:
    """What the model writes is greedy, what it does not write is not."""
    questions = ["3 x 4 =", "Spell cat:", "Today is Friday. In two days it will be"]
    with (
        LlamaModel(TINY, ONE_GRAPH) as model,
        SharedSession(model, 512, n_seq=8, compute=ONE_GRAPH) as session,
    ):
        wishes = [Wish(model.tokenize(question), 6) for question in questions]
        written = generate(session, wishes)
        pairs = [
            (wish.prompt, np.array(tokens, np.int32))
            for wish, text in zip(wishes, written, strict=True)
            for tokens in (text.tokens, (*text.tokens[:3], text.tokens[3] ^ 1, *text.tokens[4:]))
        ]
        found = loglikelihoods(session, pairs, 512)
        expected = [direct(model, np.concatenate(pair))[len(pair[0]) - 1 :].sum() for pair in pairs]
    assert [is_greedy for _, is_greedy in found] == [True, False] * 3
    assert [log_p for log_p, _ in found] == pytest.approx(expected, abs=0.05)
    assert written[0].text.startswith(" 12\n")


def test_greedy_continuation_is_the_most_likely_token_each_time() -> None:
    with LlamaModel(TINY, ONE_GRAPH) as model:
        prompt = model.tokenize("Sort the letters: d a c b\nSorted:")
        with SharedSession(model, 256, n_seq=2, compute=ONE_GRAPH) as session:
            (written,) = generate(session, [Wish(prompt, 8)])
        tokens = prompt
        with Session(model, 64, compute=ONE_GRAPH) as alone:
            for _ in range(8):
                logits = alone.chunk_logits(tokens[None, :], 1, bos=False)[0, -1]
                tokens = np.append(tokens, logits.argmax()).astype(np.int32)
    assert list(tokens[len(prompt) :]) == list(written.tokens)


def test_stop_strings_and_room() -> None:
    with (
        LlamaModel(TINY, ONE_GRAPH) as model,
        SharedSession(model, 40, n_seq=2, compute=ONE_GRAPH) as session,
    ):
        prompt = model.tokenize("3 x 4 =")
        wishes = [Wish(prompt, 12, ("\n",)), Wish(prompt, 12), Wish(prompt, 2, ("zzz",))]
        stopped, free, short = generate(session, wishes)
        assert stopped.text == " 12"
        assert free.text.startswith(" 12\n")
        assert len(short.tokens) == 2
        with pytest.raises(DataError, match="use a larger -c"):
            generate(session, [Wish(prompt, 40)])


def test_pairs_are_split_between_words() -> None:
    with LlamaModel(TINY, ONE_GRAPH) as model:
        context, continuation = split_pair(model, "3 x 4 = ", "12")
        whole = model.tokenize("3 x 4 = 12")
        assert np.array_equal(np.concatenate([context, continuation]), whole)
        assert np.array_equal(context, model.tokenize("3 x 4 ="))
        start, text = split_pair(model, "", "Ada")
        assert list(start) == [model.bos]
        assert np.array_equal(text, without_bos(model, model.tokenize("Ada")))
        with pytest.raises(DataError, match="empty"):
            split_pair(model, "a", "")


def test_rolling_windows_are_lm_evals_example() -> None:
    pairs = rolling_windows(np.arange(10, dtype=np.int32), -1, 4)
    inputs = [np.concatenate([a, b])[:-1].tolist() for a, b in pairs]
    assert inputs == [[-1, 0, 1, 2], [3, 4, 5, 6], [5, 6, 7, 8]]
    assert [b.tolist() for _, b in pairs] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [b.tolist() for _, b in rolling_windows(np.arange(3, dtype=np.int32), -1, 8)] == [
        [0, 1, 2]
    ]
