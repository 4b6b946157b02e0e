"""The second half of `make test-archs`: every key of every architecture, as a table.

What is read must be known (`meaning`), and random values of it must be harmless (`variants`).
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

from ggprune.report.blocks import markdown_table
from ggprune.runtime.isolate import isolated
from tests.arch.families import Family
from tests.arch.meaning import unknown_keys
from tests.arch.variants import BAD, Result, Verdict, check_variants

N_VARIANT = 3  # of each architecture; --all has about a hundred
VERDICTS: tuple[str, ...] = get_args(Verdict)


@dataclass(frozen=True)
class Surveyed:
    """One family's keys."""

    family: Family
    unknown: tuple[str, ...]
    results: tuple[Result, ...]

    @property
    def findings(self) -> tuple[str, ...]:
        return (*self.unknown, *(str(r) for r in self.results if r.verdict in BAD))


def one_of_each(families: Iterable[Family]) -> list[Family]:
    """The first family of every architecture."""
    first: dict[str, Family] = {}
    for family in families:
        first.setdefault(family.arch, family)
    return list(first.values())


def survey_keys(
    families: Iterable[Family], ungrown: Sequence[Family], n_worker: int, seed: int = 0,
    limit: int | None = N_VARIANT,
) -> bool:  # fmt: skip
    """Print the table and what is wrong; is nothing? Of the `ungrown` no model can be made."""
    chosen = [*one_of_each(families), *ungrown]
    rows: list[Surveyed] = []
    with ThreadPoolExecutor(n_worker) as pool:
        limits = [*[limit] * (len(chosen) - len(ungrown)), *[0] * len(ungrown)]
        for row in pool.map(partial(_surveyed_apart, seed=seed), chosen, limits):
            rows.append(row)
            print(f"\r{len(rows)}/{len(chosen)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(_table(rows))
    count = Counter(result.verdict for row in rows for result in row.results)
    numbers = ", ".join(f"{count[v]} {v}" for v in get_args(Verdict))
    print(f"\n{len(rows)} architectures, {sum(count.values())} variants (seed {seed}): {numbers}.")
    findings = [finding for row in rows for finding in row.findings]
    print("".join(f"{finding}\n" for finding in findings), end="")
    return not findings


def _surveyed_apart(family: Family, limit: int | None, *, seed: int) -> Surveyed:
    return isolated(_surveyed, family, limit, seed)


def _surveyed(family: Family, limit: int | None, seed: int) -> Surveyed:
    with tempfile.TemporaryDirectory() as folder:
        unknown = tuple(unknown_keys(family, Path(folder)))
    results = check_variants(family, seed, limit) if limit != 0 else []
    return Surveyed(family, unknown, tuple(results))


def _table(rows: Sequence[Surveyed]) -> str:
    lines = []
    for row in (row for row in rows if row.results):
        count = Counter(result.verdict for result in row.results)
        n_key = len(row.results[0].new_keys)
        numbers = [str(count[v] or "-") for v in get_args(Verdict)]
        lines.append([row.family.arch, str(n_key), str(len(row.results)), *numbers])
    return markdown_table(["architecture", "keys read", "variants", *VERDICTS], lines)
