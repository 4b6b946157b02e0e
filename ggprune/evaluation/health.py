"""Does a model still write sane text? Generation breaks long before likelihoods show it.

Greedy continuations of a few prompts, the base model's beside each, and what can be counted in
them: repetition, the end, scripts, languages, brackets, sums. A number here is a hint where to
read on: the texts are part of the result.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, cast

from ggprune.errors import DataError
from ggprune.evaluation.generate import Continuation, Wish, generate
from ggprune.files.keys import INLINE, Key
from ggprune.files.reading import TextErrors, name_of, read_lines
from ggprune.progress import SILENT, Progress
from ggprune.runtime.compute import Compute
from ggprune.runtime.library import versions
from ggprune.runtime.sequences import SharedSession
from ggprune.runtime.session import LlamaModel

N_GRAM = 4  # tokens: shorter ones repeat in good text as well
N_SEQ = 16  # texts written at once
SURE = 0.9  # probability of a language; code, lists and sums stay below it
EARLY = 0.5  # of the base's length
PAIRS = {")": "(", "]": "[", "}": "{"}
PROMPTS = "prompts.txt"


@dataclass(frozen=True)
class Prompt:
    """What the models go on with."""

    text: str
    expected: str | None = None  # what the continuation must begin with


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One continuation and what was counted in it."""

    prompt: str
    text: str
    n_token: int
    has_ended: Annotated[bool, Key(name="ended")]
    repetition: Annotated[float, "share of token 4-grams that were there before, 0 to 1"]
    stray_brackets: Annotated[int, "closing ones that close nothing"]
    scripts: Annotated[dict[str, float], 'share of the letters: {"LATIN": 0.9, "CJK": 0.1}']
    language: Annotated[str | None, "ISO 639-1 code; null where there is no saying"]
    is_right: Annotated[bool | None, Key(name="right"), "null where no answer is expected"]


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What a model wrote behind all prompts. Some counts are against the base: None without one."""

    repetition: Annotated[float, "mean share of repeated 4-grams"]
    n_ended: Annotated[int, "texts that the model ended"]
    n_early: Annotated[
        int | None, Key(name="n_early_end"), "of them: shorter than half of the base's"
    ]
    n_missing_end: Annotated[int | None, "texts that go on where the base ended"]
    n_other_script: Annotated[
        int | None, "texts of which over half of the letters are in scripts that the base's is not"
    ]
    n_other_language: Annotated[
        int | None, "texts in another language than the base's, where py3langid is sure of both"
    ]
    stray_brackets: int
    n_right: int
    n_expected: Annotated[int, "prompts that have an answer"]
    samples: tuple[Sample, ...]


@dataclass(frozen=True, kw_only=True)
class Health:
    """What a model wrote, and the base beside it, where there is one."""

    path: Annotated[str, Key(name="model.path")]
    n_predict: Annotated[int, "tokens at most"]
    texts: Annotated[Texts, INLINE]
    base: Annotated[Texts | None, "the same of the base"]
    versions: dict[str, str]


def count_texts(samples: Sequence[Sample], base: Sequence[Sample] | None = None) -> Texts:
    """`base` are the base's samples in the same order."""

    def count(differs: Callable[[Sample, Sample], bool]) -> int | None:
        return sum(map(differs, samples, base)) if base is not None else None

    expected = [s.is_right for s in samples if s.is_right is not None]
    return Texts(
        repetition=sum(s.repetition for s in samples) / len(samples),
        n_ended=sum(s.has_ended for s in samples),
        n_early=count(lambda s, b: s.has_ended and s.n_token < EARLY * b.n_token),
        n_missing_end=count(lambda s, b: b.has_ended and not s.has_ended),
        n_other_script=count(lambda s, b: script_shift(s.scripts, b.scripts) > 0.5),
        n_other_language=count(
            lambda s, b: None not in (s.language, b.language) and s.language != b.language
        ),
        stray_brackets=sum(s.stray_brackets for s in samples),
        n_right=sum(expected),
        n_expected=len(expected),
        samples=tuple(samples),
    )


def read_prompts(path: Path | None, errors: TextErrors = TextErrors.STRICT) -> tuple[Prompt, ...]:
    """A prompt per line, `\\n` a line break, `\\t` (or a tabulator) before an expected answer.

    Lines that are empty or begin with `#` do not count. None: the prompts that ship with ggprune.
    Raises DataError if the file cannot be read or has no prompt.
    """
    if path is None:
        lines = (files("ggprune.evaluation") / PROMPTS).read_text("utf-8").split("\n")
    else:
        lines = read_lines(path, errors)
    fields = [
        line.replace("\\n", "\n").replace("\\t", "\t").partition("\t")
        for line in lines
        if line.strip() and not line.startswith("#")
    ]
    if not fields:
        raise DataError(f"{name_of(path) if path else PROMPTS}: has no prompts")
    return tuple(Prompt(text, expected.strip() or None) for text, _, expected in fields)


def check_health(
    paths: Sequence[Path],
    prompts: Sequence[Prompt],
    *,
    base: Path | None = None,
    n_predict: int = 64,
    compute: Compute | None = None,
    progress: Progress = SILENT,
) -> tuple[Health, ...]:
    """Every model, after the base model; `n_predict` tokens behind each prompt.

    Raises DataError if a model has no tokenizer, LlamaError if llama.cpp cannot compute it.
    """
    models = [base, *paths] if base is not None else list(paths)
    written = []
    for i, path in enumerate(models):
        written.append(_samples(path, prompts, n_predict, compute))
        progress.step(i + 1, len(models))
    reference = written.pop(0) if base is not None else None
    counted = count_texts(reference) if reference is not None else None
    return tuple(
        Health(
            path=str(path), n_predict=n_predict, texts=count_texts(samples, reference),
            base=counted, versions=versions(),
        )
        for path, samples in zip(paths, written, strict=True)
    )  # fmt: skip


def _samples(
    path: Path, prompts: Sequence[Prompt], n_predict: int, compute: Compute | None
) -> tuple[Sample, ...]:
    with LlamaModel(path, compute) as model:
        wishes = [Wish(model.tokenize(prompt.text), n_predict) for prompt in prompts]
        longest = max(len(wish.prompt) for wish in wishes) + n_predict
        n_seq = min(N_SEQ, len(wishes))
        with SharedSession(model, longest * n_seq, n_seq=n_seq, compute=compute) as session:
            texts = generate(session, wishes)
    return tuple(map(_sample, prompts, texts))


def _sample(prompt: Prompt, written: Continuation) -> Sample:
    text, expected = written.text, prompt.expected
    return Sample(
        prompt=prompt.text, text=text, n_token=len(written.tokens), has_ended=written.has_ended,
        repetition=repetition(written.tokens), stray_brackets=stray_brackets(prompt.text, text),
        scripts=scripts(text), language=language_of(text),
        is_right=begins_with(text, expected) if expected else None,
    )  # fmt: skip


def repetition(tokens: Sequence[int]) -> float:
    """Share of the 4-grams that occurred before in the same text."""
    grams = [tuple(tokens[i : i + N_GRAM]) for i in range(len(tokens) - N_GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def stray_brackets(prompt: str, text: str) -> int:
    """Closing brackets in `text` that close nothing, or something else, in prompt + text."""
    opened: list[str] = []
    stray = 0
    for i, character in enumerate(prompt + text):
        if character in PAIRS.values():
            opened.append(character)
        elif character in PAIRS and opened and opened[-1] == PAIRS[character]:
            opened.pop()
        elif character in PAIRS and i >= len(prompt):
            stray += 1
    return stray


def scripts(text: str) -> dict[str, float]:
    """Share of each script among the letters, by the first word of their Unicode names."""
    names = [unicodedata.name(c, "UNKNOWN").split(" ")[0] for c in text if c.isalpha()]
    return {name: n / len(names) for name, n in sorted(Counter(names).items())}


def script_shift(scripts: dict[str, float], base: dict[str, float]) -> float:
    """Share of the letters in scripts that the base does not use; 0 where either has no letters."""
    return sum(n for name, n in scripts.items() if name not in base) if base else 0.0


def begins_with(text: str, expected: str) -> bool:
    """Is the answer the first thing in the text, and is it all of the number or word?"""
    start = text.lstrip()
    return start.startswith(expected) and not start[len(expected) : len(expected) + 1].isalnum()


def language_of(text: str) -> str | None:
    """ISO 639-1 code of the language, as py3langid has it; None where it is not sure."""
    language, probability = _classifier()(text)
    return str(language) if probability >= SURE else None


@cache
def _classifier() -> Callable[[str], tuple[str, float]]:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    return cast("Callable[[str], tuple[str, float]]", identifier.classify)
