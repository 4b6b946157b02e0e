"""A text that a model writes itself, where there is none to fit to: what it says is what it knows.

Many sequences are written in one batch, each sampled from the whole distribution at temperature 1.
A sequence has a number and a random stream of its own, so its text does not depend on which others
are written beside it, but for the last bits of its logits.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ggprune.arch.architecture import architecture_of, check_scored
from ggprune.errors import DataError, NonFiniteError
from ggprune.files.documents import read_document, to_text
from ggprune.files.outputs import disk_errors, write_text
from ggprune.healing.result import ASIDE, GOOD_ROWS_PER_INPUT
from ggprune.metrics.estimates import Float64
from ggprune.metrics.logits import NOT_FINITE
from ggprune.metrics.text import Text
from ggprune.model.model import Model
from ggprune.progress import SILENT, Progress
from ggprune.runtime.compute import Compute
from ggprune.runtime.devices import computing_on
from ggprune.runtime.finite import naming
from ggprune.runtime.library import versions
from ggprune.runtime.session import LlamaModel, Logits, Session, Tokens
from ggprune.runtime.vocabulary import Vocabulary

FORMAT = 1  # of what is in the cache, and of how it is written
SPARE = 1.05  # a sampled token can be a part of a word: the same text has fewer when it is read
MAX_CELL = 1 << 14  # tokens that the context holds at once: 2 GiB of an 8B model with f16 keys
MAX_EXCESS = 8  # times as many tokens as asked for are sampled at most


@dataclass(frozen=True, kw_only=True)
class SelfTextOptions:
    """How much a model writes, and how."""

    n_token: int  # of the text when it is read again, at least
    n_ctx: int = 512  # tokens of a sequence
    seed: int = 0
    n_seq: int = 16  # written in one batch; changes the speed
    compute: Compute | None = None
    cache: Path | None = None  # folder where the text is kept


@dataclass(frozen=True)
class _Kept:
    """A text in the cache. `sha256` says whether it is whole."""

    sha256: str
    content: str


def write_self_text(model: Model, options: SelfTextOptions, progress: Progress = SILENT) -> Text:
    """At least `n_token` tokens of text, and as few more as whole sequences give.

    A text in the cache is read, and the model is not loaded. Run it through `isolated`. Raises
    ArchitectureError for one that is no writer, DataError for a vocabulary that no text can begin
    with, or a model that writes next to nothing, LlamaError if llama.cpp cannot load or compute it,
    OutputError if the cache cannot be written.
    """
    check_scored(architecture_of(model))
    source = f"a text written by {model.path.name} (seed {options.seed})"
    place = _place(model, options)
    if place is not None and (known := _known(place, source)) is not None:
        return known
    compute = options.compute or Compute()
    with naming(model.path), LlamaModel(model.path, compute) as loaded:
        text = Text(source, _written(loaded, options, compute, progress))
    if place is not None:
        with disk_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
        write_text(place, to_text(_Kept(text.sha256, text.content)), force=True)
    return text


def stand_in(model: Model, n_token: int, sample: Text) -> Text:
    """`sample` over and over, `n_token` tokens and few more: to say what work on them would take.

    Loads the vocabulary only. Raises DataError if the model has no tokenizer.
    """
    content, n_char = "", 0
    with LlamaModel(model.path, vocab_only=True) as loaded:
        n_sample = len(loaded.tokenize(sample.content))
        while (missing := n_token - len(loaded.tokenize(content))) > 0:
            n_char += math.ceil(missing * len(sample.content) / n_sample)
            content = (sample.content * (1 + n_char // len(sample.content)))[:n_char]
    return Text(f"a text that {model.path.name} would write", content)


def enough_tokens(n_input: int, n_ctx: int) -> int:
    """Tokens of a text that fits matrices with so many inputs well, chunks set aside included."""
    n_fitted = -(-GOOD_ROWS_PER_INPUT * n_input // n_ctx)  # chunks
    return n_ctx * (n_fitted + -(-n_fitted // (ASIDE - 1)))


def draw(logits: Logits, uniform: Float64) -> Tokens:
    """A token for each row, (n, n_vocab) -> (n,), from its softmax at temperature 1.

    `uniform` has a number in [0, 1) for each, (n,): the token is where the distribution function,
    summed in float64, first exceeds it. Raises NonFiniteError for logits that are not finite.
    """
    if not np.isfinite(logits).all():
        raise NonFiniteError(NOT_FINITE)
    tokens = np.empty(len(logits), np.int32)
    for i, row in enumerate(logits):  # one at a time: a row of doubles stays in the CPU's cache
        sums = np.cumsum(np.exp(row.astype(np.float64) - row.max()))
        token = np.searchsorted(sums, uniform[i] * sums[-1], side="right")
        last = np.searchsorted(sums, sums[-1])  # where a product that is rounded up ends
        tokens[i] = min(token, last)
    return tokens


def _written(
    model: LlamaModel, options: SelfTextOptions, compute: Compute, progress: Progress
) -> str:
    """The first texts that are enough together, in the order of their numbers."""
    n_token, n_ctx = options.n_token, options.n_ctx
    vocabulary = Vocabulary(model)
    start = _start(vocabulary)

    def n_read(texts: Sequence[str]) -> int:
        return len(model.tokenize(_joined(texts)))

    n_seq = min(options.n_seq, compute.n_batch, max(MAX_CELL // n_ctx, 1))
    n_seq = min(n_seq, _n_text(n_token, n_ctx))
    texts, n_done = list[str](), 0
    with Session(model, n_ctx, n_seq=n_seq, compute=compute) as session:
        while n_done < n_token:
            if len(texts) > MAX_EXCESS * _n_text(n_token, n_ctx):
                raise DataError(
                    f"{model.path}: writes next to nothing: {len(texts) * n_ctx} tokens are a text "
                    f"of {n_done}: give a text with -f"
                )
            n = min(n_seq, _n_text(n_token - n_done, n_ctx))
            streams = [np.random.default_rng((options.seed, len(texts) + i)) for i in range(n)]
            columns = []
            for tokens in _write(session, start, streams):
                columns.append(tokens)
                progress.step(min(n_done + n * len(columns), n_token - 1), n_token)
            texts += [_text(vocabulary, row) for row in np.stack(columns, axis=1)]
            n_done = n_read(texts)
    progress.step(n_token, n_token)
    counts = range(1, len(texts) + 1)
    return _joined(texts[: 1 + bisect_left(counts, n_token, key=lambda n: n_read(texts[:n]))])


def _n_text(n_token: int, n_ctx: int) -> int:
    """Sequences that so many tokens take, most likely."""
    return math.ceil(SPARE * n_token / n_ctx)


def _start(vocabulary: Vocabulary) -> int:
    """Raises DataError if no text can begin."""
    try:
        return vocabulary.start
    except DataError as e:
        raise DataError(f"{e}, so it cannot write a text: give one with -f") from e


def _write(
    session: Session, start: int, streams: Sequence[np.random.Generator]
) -> Iterator[Tokens]:
    """The tokens at the next place of all sequences, (n_seq,), until they are full.

    An end token does not end a sequence: the model goes on behind it, as it has seen texts follow
    each other when it was trained, and a chat model turn after turn. All sequences are of the same
    length so, and the batch is full to the last step.
    """
    session.clear()
    uniform = np.stack([stream.random(session.n_ctx) for stream in streams])
    tokens = np.full(len(streams), start, np.int32)
    for position in range(session.n_ctx):
        session.decode(tokens[:, None], position)
        tokens = draw(session.logits(len(streams), 1)[:, 0], uniform[:, position])
        yield tokens


def _text(vocabulary: Vocabulary, tokens: Tokens) -> str:
    """End tokens are line breaks, other control tokens stand for nothing."""
    pieces = (b"\n" if vocabulary.is_end(t) else vocabulary.piece(t) for t in tokens.tolist())
    return b"".join(pieces).decode("utf-8", "replace")


def _joined(texts: Sequence[str]) -> str:
    return "\n".join(texts)


def _place(model: Model, options: SelfTextOptions) -> Path | None:
    """Where the text is kept: under a name that says all it depends on."""
    if options.cache is None:
        return None
    settings = {
        "format": FORMAT, "fingerprint": model.fingerprint, "n_token": options.n_token,
        "n_ctx": options.n_ctx, "seed": options.seed, "versions": versions(),
        "n_gpu_layers": (options.compute or Compute()).n_gpu_layers,
        "computing_on": computing_on(),
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]
    return options.cache / f"text-{key}.json"


def _known(place: Path, source: str) -> Text | None:
    """None for what is not there, or damaged: it is written again."""
    try:
        kept = read_document(place, _Kept, "a text that a model wrote")
    except DataError:
        return None
    text = Text(source, kept.content)
    return text if text.sha256 == kept.sha256 else None
