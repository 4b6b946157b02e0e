"""Does a model still write sane text? Generation breaks long before likelihoods show it.

Greedy continuations of a few prompts, the base model's beside each, and what can be counted in
them: repetition, the end, scripts, languages, brackets, sums. A number here is a hint where to
read on: the texts are part of the result.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ggprune.errors import DataError
from ggprune.evaluation.generate import Continuation, Wish, generate
from ggprune.evaluation.language import language_of
from ggprune.evaluation.task_files import read_lines
from ggprune.evaluation.trees import Progress
from ggprune.runtime.library import versions
from ggprune.runtime.sequences import SharedSession
from ggprune.runtime.session import Compute, LlamaModel

N_GRAM = 4  # tokens: shorter ones repeat in good text as well
N_SEQ = 16  # texts written at once
EARLY = 0.5  # of the base's length
PAIRS = {")": "(", "]": "[", "}": "{"}
PROMPTS = "prompts.txt"


@dataclass(frozen=True)
class Prompt:
    text: str
    expected: str | None = None  # what the continuation must begin with


@dataclass(frozen=True)
class Sample:
    """One continuation and what was counted in it."""

    prompt: str
    text: str
    n_token: int
    has_ended: bool
    repetition: float  # share of token 4-grams that were there before, 0..1
    stray_brackets: int  # closing ones that close nothing
    scripts: dict[str, float]  # share of the letters: {"LATIN": 0.9, "CJK": 0.1}
    language: str | None  # ISO 639-1 code; None where there is no saying
    is_right: bool | None  # None where no answer is expected

    def to_json(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt, "text": self.text, "n_token": self.n_token,
            "ended": self.has_ended, "repetition": self.repetition,
            "stray_brackets": self.stray_brackets, "scripts": self.scripts,
            "language": self.language, "right": self.is_right,
        }  # fmt: skip


@dataclass(frozen=True)
class Health:
    """All samples of a model; those of the base, where there is one, in the same order."""

    path: str
    samples: tuple[Sample, ...]
    base: tuple[Sample, ...] | None
    n_predict: int
    versions: dict[str, str]

    @property
    def repetition(self) -> float:
        """Mean share of repeated 4-grams."""
        return sum(s.repetition for s in self.samples) / len(self.samples)

    @property
    def n_ended(self) -> int:
        return sum(s.has_ended for s in self.samples)

    @property
    def stray_brackets(self) -> int:
        return sum(s.stray_brackets for s in self.samples)

    @property
    def answers(self) -> tuple[int, int]:
        """Right ones, all that were expected."""
        expected = [s.is_right for s in self.samples if s.is_right is not None]
        return sum(expected), len(expected)

    @property
    def n_early(self) -> int | None:
        """Texts that end by themselves before half of the base's length."""
        return self._count(lambda s, b: s.has_ended and s.n_token < EARLY * b.n_token)

    @property
    def n_missing_end(self) -> int | None:
        """Texts that go on where the base ended."""
        return self._count(lambda s, b: b.has_ended and not s.has_ended)

    @property
    def n_other_script(self) -> int | None:
        """Texts of which more than half of the letters are in scripts that the base did not use."""
        return self._count(lambda s, b: script_shift(s.scripts, b.scripts) > 0.5)

    @property
    def n_other_language(self) -> int | None:
        """Texts in another language than the base's, where both are known."""
        return self._count(
            lambda s, b: None not in (s.language, b.language) and s.language != b.language
        )

    def _count(self, is_so: Any) -> int | None:
        if self.base is None:
            return None
        return sum(bool(is_so(s, b)) for s, b in zip(self.samples, self.base, strict=True))

    def to_json(self) -> dict[str, Any]:
        base = Health("", self.base, None, self.n_predict, {}) if self.base else None
        return {
            "model": {"path": self.path}, "n_predict": self.n_predict, **self._counts(),
            "base": base and base._counts(), "versions": self.versions,
        }  # fmt: skip

    def _counts(self) -> dict[str, Any]:
        right, n_expected = self.answers
        return {
            "repetition": self.repetition, "n_ended": self.n_ended, "n_early_end": self.n_early,
            "n_missing_end": self.n_missing_end, "n_other_script": self.n_other_script,
            "n_other_language": self.n_other_language,
            "stray_brackets": self.stray_brackets, "n_right": right, "n_expected": n_expected,
            "samples": [sample.to_json() for sample in self.samples],
        }  # fmt: skip


def read_prompts(path: Path | None) -> tuple[Prompt, ...]:
    """A prompt per line, `\\n` a line break, `\\t` (or a tabulator) before an expected answer.

    Lines that are empty or begin with `#` do not count. None: the prompts that ship with ggprune.
    Raises DataError if the file cannot be read or has no prompt.
    """
    if path is None:
        lines = (files("ggprune.evaluation") / PROMPTS).read_text("utf-8").split("\n")
    else:
        lines = read_lines(path)
    prompts = tuple(_prompt(line) for line in lines if line.strip() and not line.startswith("#"))
    if not prompts:
        raise DataError(f"{path}: has no prompts")
    return prompts


def _prompt(line: str) -> Prompt:
    text, _, expected = line.replace("\\n", "\n").replace("\\t", "\t").partition("\t")
    return Prompt(text, expected.strip() or None)


def check_health(
    paths: Sequence[Path],
    prompts: Sequence[Prompt],
    *,
    base: Path | None = None,
    n_predict: int = 64,
    compute: Compute | None = None,
    progress: Progress | None = None,
) -> tuple[Health, ...]:
    """Every model, after the base model; `n_predict` tokens behind each prompt.

    Raises DataError if a model has no tokenizer, LlamaError if llama.cpp cannot compute it.
    """
    models = ([base] if base is not None else []) + list(paths)
    written = []
    for i, path in enumerate(models):
        written.append(_samples(path, prompts, n_predict, compute))
        if progress is not None:
            progress(i + 1, len(models))
    reference = written.pop(0) if base is not None else None
    return tuple(
        Health(str(path), samples, reference, n_predict, versions())
        for path, samples in zip(paths, written, strict=True)
    )


def _samples(
    path: Path, prompts: Sequence[Prompt], n_predict: int, compute: Compute | None
) -> tuple[Sample, ...]:
    with LlamaModel(path, compute) as model:
        wishes = [Wish(model.tokenize(prompt.text), n_predict) for prompt in prompts]
        longest = max(len(wish.prompt) for wish in wishes) + n_predict
        n_seq = min(N_SEQ, len(wishes))
        with SharedSession(model, longest * n_seq, n_seq=n_seq, compute=compute) as session:
            texts = generate(session, wishes)
    return tuple(_sample(p, text) for p, text in zip(prompts, texts, strict=True))


def _sample(prompt: Prompt, written: Continuation) -> Sample:
    return Sample(
        prompt.text, written.text, len(written.tokens), written.has_ended,
        repetition(written.tokens), stray_brackets(prompt.text, written.text),
        scripts(written.text), language_of(written.text),
        begins_with(written.text, prompt.expected) if prompt.expected else None,
    )  # fmt: skip


def repetition(tokens: Sequence[int], n: int = N_GRAM) -> float:
    """Share of the n-grams that occurred before in the same text."""
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
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
