"""Texts and conversations as rows: which tokens are read, which are learned, which set aside."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ggprune.errors import DataError
from ggprune.healing.result import is_aside
from ggprune.metrics.chunks import make_chunks
from ggprune.metrics.text import Text
from ggprune.model.metadata import string
from ggprune.model.model import open_model
from ggprune.pipeline.job import Job, write
from ggprune.runtime.chat import ChatVocabulary
from ggprune.runtime.session import LlamaModel
from ggprune.runtime.vocabulary import Vocabulary
from ggprune.surgery.contents import Replacement
from ggprune.training.samples import (
    Corpus,
    Sample,
    make_rows,
    read_corpus,
    read_samples,
    text_to_fit,
)
from tests.conftest import FIXTURES

CHATML = "{% for m in messages %}<|im_start|>{{m.role}}\n{{m.content}}<|im_end|>\n{% endfor %}"
TALK = (
    {"role": "user", "content": "one and one"}, {"role": "assistant", "content": "two of them"},
    {"role": "user", "content": "and three"}, {"role": "assistant", "content": "that is five"},
)  # fmt: skip


@pytest.fixture(scope="module")
def plain() -> Iterator[ChatVocabulary]:
    with LlamaModel(FIXTURES / "tiny.gguf", vocab_only=True) as model:
        yield ChatVocabulary(model)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatVocabulary]:
    out = tmp_path_factory.mktemp("chat") / "chat.gguf"
    said = Replacement({}, {"tokenizer.chat_template": string(CHATML)})
    tiny = open_model(FIXTURES / "tiny.gguf")
    write(Job(model=tiny, out=out, replaced=said, check_load=False))
    with LlamaModel(out, vocab_only=True) as model:
        yield ChatVocabulary(model)


def lines(path: Path, *documents: object) -> Path:
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return path


def test_rows_of_a_text_are_the_chunks_of_llama_perplexity(plain: ChatVocabulary) -> None:
    text = Text("a", (FIXTURES / "calibration.txt").read_text()[:20000])
    chunks = make_chunks(text, plain.tokenize, 64)
    train, aside = make_rows(Corpus(text), plain, 64)
    numbers = [n for n in range(len(chunks)) if not is_aside(n)]
    others = [n for n in range(len(chunks)) if is_aside(n)]
    for rows, wanted in ((train, numbers), (aside, others)):
        expected = chunks.tokens[wanted].copy()
        if plain.bos is not None:
            expected[:, 0] = plain.bos
        assert np.array_equal(rows.tokens, expected)
    assert train.learned.all()
    assert not aside.learned[:, :33].any() and aside.learned[:, 33:].all()  # as in a chunk


def test_conversations_are_written_by_the_models_template(chat: ChatVocabulary) -> None:
    text = chat.render(TALK[:2])
    assert text == (
        "<|im_start|>user\none and one<|im_end|>\n<|im_start|>assistant\ntwo of them<|im_end|>\n"
    )
    assert chat.render(TALK[:1], opens_answer=True).endswith("<|im_start|>assistant\n")


def test_only_answers_are_learned(chat: ChatVocabulary) -> None:
    corpus = Corpus(samples=tuple(Sample(f"a:{n}", messages=TALK) for n in range(40)))
    train, aside = make_rows(corpus, chat, 32, answers_only=True)
    assert len(aside) and not train.learned.all() and train.learned.any()
    vocabulary = Vocabulary(chat.model)
    said = vocabulary.text(train.tokens[train.learned])
    assert "two of them<|im_end|>" in said and "that is five<|im_end|>" in said
    assert "one and one" not in said and "user" not in said
    everything, _ = make_rows(corpus, chat, 32)
    assert everything.learned.all()


def test_every_eighth_document_is_set_aside_and_not_fitted(plain: ChatVocabulary) -> None:
    corpus = Corpus(samples=tuple(Sample(f"a:{n}", text=f"number {n} " * 40) for n in range(16)))
    train, aside = make_rows(corpus, plain, 32)
    vocabulary = Vocabulary(plain.model)
    seen, unseen = (vocabulary.text(rows.tokens.ravel()) for rows in (train, aside))
    others = [n for n in range(16) if is_aside(n)]
    assert len(others) == 2
    for n in range(16):
        assert (f"number {n} " in unseen) == (n in others)
        assert (f"number {n} " in seen) == (n not in others)
        assert (f"number {n} " in text_to_fit(corpus, plain).content) == (n not in others)


def test_kinds_of_documents(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "a.jsonl", {"text": "plain"}, {"messages": list(TALK)},
        {"instruction": "add", "input": "1, 2", "output": "3"},
        {"instruction": "say hello", "output": "hello"},
    )  # fmt: skip
    plain, talk, alpaca, short = read_samples(path)
    assert plain.text == "plain" and talk.messages == TALK
    assert alpaca.messages[0] == {"role": "user", "content": "add\n\n1, 2"}
    assert alpaca.messages[1] == {"role": "assistant", "content": "3"}
    assert short.messages[0]["content"] == "say hello"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "2: is not JSON"),
        ("[1]", "2: is not a JSON object"),
        ("[" * 200_000, "2: is not JSON: is nested too deep"),
        ('{"text": "\\ud800"}', "2: is not JSON: half of a surrogate pair stands alone"),
        ('{"text": "a", "n": 1e999}', "2: is not JSON: 1e999 is too large for a number"),
        ('{"words": 1}', "2: has neither"),
        ('{"messages": []}', "2: `messages` is empty"),
        ('{"messages": [{"role": "user"}]}', "2: `messages` is not a list"),
        ('{"messages": "hello"}', "2: `messages` is not a list"),
        ('{"instruction": "add", "output": ""}', "2: has neither"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(DataError, match=re.escape(f"broken.jsonl:{reason}")):
        list(read_samples(path))


def test_files_and_folders(tmp_path: Path) -> None:
    lines(tmp_path / "b.jsonl", {"text": "document"})
    (tmp_path / "a.txt").write_text("text")
    corpus = read_corpus([tmp_path])
    assert corpus.text is not None and corpus.text.content == "text"
    assert [sample.text for sample in corpus.samples] == ["document"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no \.txt or \.jsonl file"):
        read_corpus([tmp_path / "empty"])


def test_too_little_text_says_what_to_do(plain: ChatVocabulary) -> None:
    with pytest.raises(DataError, match=r"0 to set aside.*more text, or a smaller -c"):
        make_rows(Corpus(Text("short", "a few words " * 30)), plain, 64)


def test_answers_only_needs_answers(plain: ChatVocabulary) -> None:
    with pytest.raises(DataError, match="has no answers"):
        make_rows(Corpus(Text("a", "text")), plain, 8, answers_only=True)
    with pytest.raises(DataError, match=r"a\.jsonl:3: has no answer"):
        make_rows(Corpus(samples=(Sample("a.jsonl:3", text="text"),)), plain, 8, answers_only=True)


def test_a_model_without_a_template_says_so(plain: ChatVocabulary) -> None:
    with pytest.raises(DataError, match="no chat template"):
        plain.render(TALK)
