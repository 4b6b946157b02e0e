"""What models write, as text: the counts as a table, and the texts beside each other."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from ggprune.evaluation.health import Health, Sample, Texts
from ggprune.report.table import markdown_table

EXCERPT = 100  # characters of a text in the terminal; reports and JSON have all


def render_health(results: Sequence[Health], *, whole: bool = False) -> str:
    """The table, then each prompt and what every model wrote behind it: the beginnings of the
    texts, or with `whole` all of them as Markdown."""
    named = named_samples(results)
    texts = [_quoted(named, i) if whole else _excerpts(named, i) for i in range(len(named[0][1]))]
    return "\n\n".join([render_health_table(results), *texts])


def render_health_table(results: Sequence[Health]) -> str:
    base = results[0].base
    headers = (
        "model", "tokens", "repeated", "ended", "early", "no end", "other script", "other language",
        "stray brackets", "sums right",
    )  # fmt: skip
    rows = [_health_row(result.path, result.texts) for result in results]
    if base is not None:
        rows.insert(0, _health_row("base", base))
    return markdown_table(headers, rows)


def named_samples(results: Sequence[Health]) -> list[tuple[str, Sequence[Sample]]]:
    """Every model and what it wrote, the base first."""
    base = results[0].base
    texts: list[tuple[str, Sequence[Sample]]] = [("base", base.samples)] if base is not None else []
    return [*texts, *((result.path, result.texts.samples) for result in results)]


def _health_row(name: str, texts: Texts) -> tuple[str, ...]:
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


def _excerpts(models: Sequence[tuple[str, Sequence[Sample]]], i: int) -> str:
    lines = [f"> {_excerpt(models[0][1][i].prompt)}"]
    return "\n".join(lines + [f"  {name}: {_excerpt(written[i].text)}" for name, written in models])


def _quoted(models: Sequence[tuple[str, Sequence[Sample]]], i: int) -> str:
    """Prompt and texts as Markdown shows them unchanged, whatever is in them."""
    parts = [f"### Prompt {i + 1}", _fenced(models[0][1][i].prompt)]
    for name, written in models:
        end = "ended by itself" if written[i].has_ended else "cut off"
        parts += [f"{name} ({written[i].n_token} tokens, {end}):", _fenced(written[i].text)]
    return "\n\n".join(parts)


def _fenced(text: str) -> str:
    """A code block with a fence that is longer than any in the text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _excerpt(text: str) -> str:
    return textwrap.shorten(text, EXCERPT, placeholder=" ...") or "(nothing)"
