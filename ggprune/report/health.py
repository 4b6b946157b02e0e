"""What models write: the counts as a table, and the texts beside each other."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from ggprune.evaluation.health import Health, Texts
from ggprune.report.blocks import Block, Code, Heading, Table, Text

EXCERPT = 100  # characters of a text in the terminal; reports and JSON have all


Written = tuple[str, Texts]  # a model's name, what it wrote


def blocks(results: Sequence[Health], *, whole: bool = False) -> tuple[Block, ...]:
    """The table, then each prompt and what every model wrote behind it: the beginnings of the
    texts, or with `whole` all of them."""
    models = _written(results)
    texts = _whole if whole else _excerpts
    numbers = range(len(models[0][1].samples))
    return (table(results), *(block for i in numbers for block in texts(models, i)))


def table(results: Sequence[Health]) -> Table:
    headers = (
        "model", "tokens", "repeated", "ended", "early", "no end", "other script", "other language",
        "stray brackets", "sums right",
    )  # fmt: skip
    return Table(headers, tuple(_row(name, texts) for name, texts in _written(results)))


def _row(name: str, texts: Texts) -> tuple[str, ...]:
    counts = texts.n_early, texts.n_missing_end, texts.n_other_script, texts.n_other_language
    return (
        name,
        str(sum(sample.n_token for sample in texts.samples)),
        f"{100 * texts.repetition:.1f} %",
        f"{texts.n_ended} of {len(texts.samples)}",
        *("-" if n is None else str(n) for n in counts),
        str(texts.stray_brackets),
        f"{texts.n_right} of {texts.n_expected}",
    )


def _written(results: Sequence[Health]) -> list[Written]:
    """What all models wrote, the base first."""
    base = results[0].base
    first = [("base", base)] if base is not None else []
    return [*first, *((result.path, result.texts) for result in results)]


def _excerpts(models: Sequence[Written], i: int) -> Iterator[Block]:
    prompt = f"> {_excerpt(models[0][1].samples[i].prompt)}"
    texts = (f"  {name}: {_excerpt(written.samples[i].text)}" for name, written in models)
    yield Text((prompt, *texts))


def _excerpt(text: str) -> str:
    return textwrap.shorten(text, EXCERPT, placeholder=" ...") or "(nothing)"


def _whole(models: Sequence[Written], i: int) -> Iterator[Block]:
    yield Heading(f"Prompt {i + 1}", level=3)
    yield Code(models[0][1].samples[i].prompt)
    for name, written in models:
        sample = written.samples[i]
        end = "ended by itself" if sample.has_ended else "cut off"
        yield Text((f"{name} ({sample.n_token} tokens, {end}):",))
        yield Code(sample.text)
