"""What is trained on: texts and conversations as rows of tokens, a part of them set aside.

Tokens are llama.cpp's. Plain texts are cut as llama-perplexity cuts them, so that the rows set
aside are the chunks that healing sets aside; conversations are written by the model's own chat
template, packed behind each other, and every eighth one is set aside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ggprune.errors import DataError
from ggprune.files.documents import parse_json
from ggprune.files.reading import TextErrors, read_lines
from ggprune.healing.result import is_aside
from ggprune.metrics.chunks import Tokens, n_scored
from ggprune.metrics.text import Text, read_texts

Mask = NDArray[np.bool_]
Message = Mapping[str, str]  # role, content
MESSAGE = ("role", "content")
INSTRUCTION = ("instruction", "input", "output")  # Alpaca's keys; input may be missing or empty


class Tokenizer(Protocol):
    """A model's vocabulary."""

    @property
    def bos(self) -> int | None: ...

    def tokenize(self, text: str, *, special: bool = False) -> Tokens: ...

    def render(self, messages: Sequence[Message], *, opens_answer: bool = False) -> str: ...


@dataclass(frozen=True)
class Sample:
    """A document: plain text, or a conversation."""

    source: str  # file and line
    text: str = ""
    messages: tuple[Message, ...] = ()


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of tokens, and which of them are to be predicted; those in front of others are read."""

    tokens: Tokens  # (n_row, n_ctx)
    learned: Mask  # (n_row, n_ctx)

    def __len__(self) -> int:
        return len(self.tokens)

    def joined(self, other: Rows) -> Rows:
        return Rows(
            np.concatenate([self.tokens, other.tokens]),
            np.concatenate([self.learned, other.learned]),
        )


@dataclass(frozen=True)
class Corpus:
    """Plain text, several ones joined, and documents of .jsonl files."""

    text: Text | None = None
    samples: tuple[Sample, ...] = ()

    @property
    def source(self) -> str:
        names = [self.text.source] if self.text is not None else []
        names += dict.fromkeys(sample.source.rsplit(":", 1)[0] for sample in self.samples)
        return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def read_corpus(paths: Sequence[Path], errors: TextErrors = TextErrors.STRICT) -> Corpus:
    """Texts, .jsonl files, and folders of both.

    A line of .jsonl has `text`, `messages` or `instruction`, `input`, `output`. Raises DataError
    that names file and line where one has none of them, or cannot be read.
    """
    files: list[Path] = []
    for path in paths:
        inside = [path]
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix in (".txt", ".jsonl"))
        if not inside:
            raise DataError(f"{path}: there is no .txt or .jsonl file in this folder")
        files += inside
    plain = [path for path in files if path.suffix != ".jsonl"]
    documents = [path for path in files if path.suffix == ".jsonl"]
    lines = tuple(s for path in documents for s in read_samples(path, errors))
    return Corpus(read_texts(plain, errors) if plain else None, lines)


def read_samples(path: Path, errors: TextErrors = TextErrors.STRICT) -> Iterator[Sample]:
    """The documents of a .jsonl file; empty lines are skipped."""
    n_sample = 0
    for n, line in enumerate(read_lines(path, errors), 1):
        if not line.strip():
            continue
        n_sample += 1
        try:
            document = parse_json(line)
        except ValueError as e:
            raise DataError(f"{path}:{n}: is not JSON: {e}") from e
        yield _sample(document, f"{path}:{n}")
    if n_sample == 0:
        raise DataError(f"{path}: has no line with a document")


def _sample(document: object, source: str) -> Sample:
    if not isinstance(document, dict):
        raise DataError(f"{source}: is not a JSON object")
    text = document.get("text")
    if isinstance(text, str) and text.strip():
        return Sample(source, text=text)
    if "messages" in document:
        return Sample(source, messages=_messages(document["messages"], source))
    parts = [document.get(key, "") for key in INSTRUCTION]
    if all(isinstance(part, str) for part in parts):
        instruction, given, output = map(str, parts)
        asked = "\n\n".join(part for part in (instruction, given) if part)
        if asked and output:
            messages = ({"role": "user", "content": asked},
                        {"role": "assistant", "content": output})  # fmt: skip
            return Sample(source, messages=messages)
    raise DataError(
        f"{source}: has neither a `text`, nor `messages`, nor `instruction` and `output`"
    )


def _messages(value: object, source: str) -> tuple[Message, ...]:
    messages: list[Message] = []
    for item in value if isinstance(value, list) else [None]:
        message = {key: item.get(key) for key in MESSAGE} if isinstance(item, dict) else {}
        if not message or not all(isinstance(part, str) for part in message.values()):
            raise DataError(f"{source}: `messages` is not a list of objects with role and content")
        messages.append({key: str(part) for key, part in message.items()})
    if not messages:
        raise DataError(f"{source}: `messages` is empty")
    return tuple(messages)


def make_rows(
    corpus: Corpus, tokenizer: Tokenizer, n_ctx: int, *, answers_only: bool = False
) -> tuple[Rows, Rows]:
    """Rows to train on, and rows set aside. With `answers_only` plain text is an error.

    Raises DataError where there is too little of either.
    """
    train, aside = _no_rows(n_ctx), _no_rows(n_ctx)
    if corpus.text is not None:
        if answers_only:
            raise DataError(f"{corpus.text.source}: has no answers, which --answers-only trains on")
        train, aside = _text_rows(tokenizer.tokenize(corpus.text.content), n_ctx)
    documents = [_learned(s, tokenizer, answers_only=answers_only) for s in corpus.samples]
    for is_other in (False, True):
        part = [item for n, item in enumerate(documents) if is_aside(n) == is_other]
        rows = _packed(part, n_ctx)
        train, aside = (train, aside.joined(rows)) if is_other else (train.joined(rows), aside)
    if not len(train) or not len(aside):
        raise DataError(
            f"{corpus.source}: gives {len(train)} rows of {n_ctx} tokens to train on and "
            f"{len(aside)} to set aside, at least one of each is needed: more text, or a smaller -c"
        )
    if not _predicted(aside.learned).any() or not _predicted(train.learned).any():
        raise DataError(f"{corpus.source}: there is no answer in the rows of {n_ctx} tokens")
    if tokenizer.bos is not None:  # as llama-perplexity has it
        train.tokens[:, 0] = aside.tokens[:, 0] = tokenizer.bos
    return train, aside


def text_to_fit(corpus: Corpus, tokenizer: Tokenizer) -> Text:
    """What closed-form fitting may see: all texts, and the documents that are not set aside."""
    parts = [corpus.text.content] if corpus.text is not None else []
    parts += [
        sample.text or tokenizer.render(sample.messages)
        for n, sample in enumerate(corpus.samples) if not is_aside(n)
    ]  # fmt: skip
    return Text(corpus.source, "\n".join(parts))


def _no_rows(n_ctx: int) -> Rows:
    return Rows(np.empty((0, n_ctx), np.int32), np.empty((0, n_ctx), np.bool_))


def _text_rows(tokens: Tokens, n_ctx: int) -> tuple[Rows, Rows]:
    """Of rows set aside the second half counts, as for llama-perplexity."""
    n_row = len(tokens) // n_ctx
    rows = tokens[: n_row * n_ctx].reshape(n_row, n_ctx)
    other = np.array([is_aside(n) for n in range(n_row)], np.bool_)
    learned = np.ones(rows.shape, np.bool_)
    learned[other, : n_ctx - n_scored(n_ctx)] = False
    return Rows(rows[~other], learned[~other]), Rows(rows[other], learned[other])


def _learned(sample: Sample, tokenizer: Tokenizer, *, answers_only: bool) -> tuple[Tokens, Mask]:
    """A document's tokens, and which of them are learned."""
    if not sample.messages:
        tokens = tokenizer.tokenize(sample.text)
        if answers_only:
            raise DataError(f"{sample.source}: has no answer, which --answers-only trains on")
        return tokens, np.ones(len(tokens), np.bool_)
    if not answers_only:
        tokens = tokenizer.tokenize(tokenizer.render(sample.messages), special=True)
        return tokens, np.ones(len(tokens), np.bool_)
    parts, masks, done = [], [], ""
    for n, message in enumerate(sample.messages):
        if message["role"] != "assistant":
            continue
        opened = tokenizer.render(sample.messages[:n], opens_answer=True)
        closed = tokenizer.render(sample.messages[: n + 1])
        if not (closed.startswith(opened) and opened.startswith(done)):
            raise DataError(
                f"{sample.source}: the model's chat template does not say where answers begin: "
                "--answers-only cannot be used with it"
            )
        for text, is_answer in ((opened[len(done) :], False), (closed[len(opened) :], True)):
            tokens = tokenizer.tokenize(text, special=True)
            tokens = tokens if not done and not is_answer else _without_bos(tokens, tokenizer)
            parts.append(tokens)
            masks.append(np.full(len(tokens), is_answer))
        done = closed
    if not parts:
        raise DataError(f"{sample.source}: has no answer, which --answers-only trains on")
    return np.concatenate(parts), np.concatenate(masks)


def _without_bos(tokens: Tokens, tokenizer: Tokenizer) -> Tokens:
    """What follows another text is no beginning."""
    n_bos = len(tokenizer.tokenize(""))
    return tokens[n_bos:]


def _packed(documents: Iterable[tuple[Tokens, Mask]], n_ctx: int) -> Rows:
    """Documents behind each other, cut into rows; a rest is left over."""
    pairs = list(documents)
    if not pairs:
        return _no_rows(n_ctx)
    tokens = np.concatenate([pair[0] for pair in pairs])
    learned = np.concatenate([pair[1] for pair in pairs])
    n_row = len(tokens) // n_ctx
    shape = (n_row, n_ctx)
    return Rows(
        tokens[: n_row * n_ctx].reshape(shape).astype(np.int32),
        learned[: n_row * n_ctx].reshape(shape),
    )


def _predicted(learned: Mask) -> Mask:
    """The first token of a row has nothing in front of it."""
    return learned[:, 1:]
