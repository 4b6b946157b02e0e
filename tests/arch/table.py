"""`make test-archs`: every family, every set, and what llama-quantize makes of the same sets; then
random values of the keys of every architecture (`survey`).

    python -m tests.arch [--seed N] [--all] [NAME...]

Exits with 1 if a file is wrong, if a family that should have exact sets has none, or if a key is
read that nobody has looked at.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ggprune.arch.architecture import architecture_of
from ggprune.errors import ArchitectureError, GGPruneError, LlamaAbortError, LlamaError
from ggprune.model.cut import Cut
from ggprune.model.unit import HALVES
from ggprune.report.blocks import markdown_table
from ggprune.runtime.isolate import isolated
from ggprune.runtime.session import Logits, Tokens
from tests.arch.exactness import Checker, Loaded, Outcome
from tests.arch.families import FAMILIES, Family, alone_sets, expert_sets, half_shifts
from tests.arch.meaning import UNGROWN
from tests.arch.survey import N_VARIANT, survey_keys

PEER = shutil.which("llama-quantize")
N_WORKER = 2


@dataclass(frozen=True)
class Row:
    """One family's line."""

    name: str
    outcomes: tuple[Outcome, ...]
    halves: tuple[Outcome, ...]  # of runs from an FFN to an attention
    experts: tuple[Outcome, ...]  # of sets of experts, of a model with more of them
    attentions: tuple[Outcome, ...]  # that leave alone
    ffns: tuple[Outcome, ...]  # that do
    refused: str | None  # the architecture as a whole
    peer: Counter[str] | None
    n_layer: int

    @property
    def is_good(self) -> bool:
        return all(o.verdict != "wrong" for o in (*self.outcomes, *self.parts))

    @property
    def parts(self) -> tuple[Outcome, ...]:
        """Of all that are not whole layers."""
        return (*self.halves, *self.attentions, *self.ffns, *self.experts)

    @property
    def n_useful(self) -> int:
        """Exact sets with layers other than a trailing run."""
        return sum(
            o.verdict in ("exact", "rounded") and not _is_trailing(o.drop.layers, self.n_layer)
            for o in self.outcomes
        )


def _is_trailing(drop: Sequence[int], n_layer: int) -> bool:
    return tuple(drop) == tuple(range(n_layer - len(drop), n_layer))


def check_apart(family: Family) -> Row:
    """In a process of its own: llama.cpp aborts on what it does not expect."""
    try:
        return isolated(check_family, family)
    except LlamaAbortError as e:
        wrong = Outcome("wrong", Cut(), str(e))
        return Row(family.name, (wrong,), (), (), (), (), None, None, family.n_layer)


def check_family(family: Family) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        # NVFP4's sidecars only where they are not another architecture's business
        model = family.make(Path(folder), sidecars=family.name == family.donor)
        try:
            architecture_of(model)
        except ArchitectureError as e:
            reason = str(e).split("yet: ")[-1]
            return Row(family.name, (), (), (), (), (), reason, None, model.n_layer)
        sets = family.all_sets(model)
        checker = Checker(model, Path(folder))
        outcomes = tuple(checker.check(drop) for drop in sets)
        shifted = half_shifts(model) if len(model.stacks) == 1 else ()
        halves = tuple(checker.check_cut(cut) for cut in shifted)
        peer = Counter(peer_verdict(checker, drop) for drop in sets) if PEER else None
        experts = check_experts(family) if expert_sets(model) else ()
        attentions, ffns = check_alone(family)
        return Row(
            family.name, outcomes, halves, experts, attentions, ffns, None, peer, model.n_layer
        )


def check_alone(family: Family) -> tuple[tuple[Outcome, ...], tuple[Outcome, ...]]:
    """Of attentions, and of FFNs."""
    with tempfile.TemporaryDirectory() as folder:
        model = family.make_plain(Path(folder))
        sets = alone_sets(model)
        if not sets:
            return (), ()
        checker = Checker(model, Path(folder))
        attentions, ffns = (
            tuple(checker.check_cut(cut) for cut in sets[half]) for half in HALVES
        )  # fmt: skip
        return attentions, ffns


def check_experts(family: Family) -> tuple[Outcome, ...]:
    with tempfile.TemporaryDirectory() as folder:
        model = family.with_experts().make(Path(folder))
        checker = Checker(model, Path(folder))
        return tuple(checker.check_cut(cut) for cut in expert_sets(model))


def peer_verdict(checker: Checker, drop: tuple[int, ...]) -> str:
    """What llama-quantize --prune-layers makes of the same set."""
    assert PEER is not None
    out = checker.folder / "peer.gguf"
    layers = ",".join(map(str, drop))
    command = [PEER, "--prune-layers", layers, str(checker.model.path), str(out), "COPY"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        return "fails"
    try:
        predicted = checker.predict(Cut.of(drop))
    except LlamaError:
        return "cannot be compared"
    try:
        actual = isolated(peer_logits, out, checker.tokens)
    except GGPruneError:
        return "does not load"
    return "exact" if np.array_equal(actual, predicted) else "wrong"


def peer_logits(path: Path, tokens: Tokens) -> Logits:
    return Loaded(path, tokens).logits({}, {})


def table(rows: Sequence[Row]) -> str:
    headers = ["architecture", "sets", "exact", "rounded", "refused", "wrong", "why refused"]
    headers += ["half-shifts", "attention alone", "FFN alone", "experts"]
    headers += ["llama-quantize"] if PEER else []
    lines = []
    for row in rows:
        count = Counter(o.verdict for o in row.outcomes)
        reasons = [f"{o.drop}: {o.reason}" for o in row.outcomes if o.reason]
        reason = row.refused or (reasons[0] if reasons else "")
        more = f" (+ {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        numbers = [str(count[v] or "-") for v in ("exact", "rounded", "refused", "wrong")]
        line = [row.name, str(len(row.outcomes)), *numbers, reason + more]
        line += [
            ", ".join(f"{n} {v}" for v, n in Counter(o.verdict for o in found).items())
            for found in (row.halves, row.attentions, row.ffns, row.experts)
        ]
        if PEER:
            line.append(", ".join(f"{n} {v}" for v, n in (row.peer or Counter()).items()))
        lines.append(line)
    return markdown_table(headers, lines, left=(0, *range(6, 12)))


def main(arguments: Sequence[str]) -> int:
    parser = ArgumentParser(prog="python -m tests.arch")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seed", type=int, default=0, help="of the values of keys")
    parser.add_argument("--all", action="store_true", help="all keys of all, for hours")
    asked = parser.parse_args(arguments)
    families = [f for f in FAMILIES if not asked.names or f.name in asked.names]
    sets_are_good = check_sets(families)
    limit, ungrown = None if asked.all else N_VARIANT, () if asked.names else UNGROWN
    keys_are_good = survey_keys(families, ungrown, N_WORKER, asked.seed, limit)
    return 0 if sets_are_good and keys_are_good else 1


def check_sets(families: Sequence[Family]) -> bool:
    """Print the table of all sets of layers; is every file right?"""
    rows: dict[str, Row] = {}
    with ThreadPoolExecutor(N_WORKER) as pool:
        futures = {pool.submit(check_apart, family): family for family in families}
        for future in as_completed(futures):
            rows[futures[future].name] = future.result()
            print(f"\r{len(rows)}/{len(families)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    ordered = [rows[family.name] for family in families]
    print(table(ordered))
    count = Counter(o.verdict for row in ordered for o in row.outcomes)
    useful = sum(row.n_useful > 0 for row in ordered)
    print(
        f"\n{len(ordered)} models, {sum(count.values())} sets: {count['exact']} exact, "
        f"{count['rounded']} equal up to rounding, {count['refused']} refused, "
        f"{count['wrong']} wrong. {useful} models have exact sets other than trailing runs."
    )
    for what, found in (
        ("Half-shifts", [row.halves for row in ordered]),
        ("Attention alone", [row.attentions for row in ordered]),
        ("FFN alone", [row.ffns for row in ordered]),
        ("Experts", [row.experts for row in ordered]),
    ):  # fmt: skip
        verdicts = Counter(o.verdict for outcomes in found for o in outcomes)
        n_able = sum(any(o.verdict == "exact" for o in outcomes) for outcomes in found)
        print(f"{what}: {', '.join(f'{n} {v}' for v, n in verdicts.items())}; {n_able} models.")
    for row in ordered:
        for o in row.parts:
            if o.verdict == "wrong":
                print(f"{row.name}: {o.drop}: {o.reason}")
    frozen = {family.name for family in families if family.frozen}
    for row in ordered:
        if row.refused is None and row.n_useful == 0 and row.name not in frozen:
            print(f"{row.name}: no set of use is exact")
    missing = [r for r in ordered if r.refused is None and not r.n_useful and r.name not in frozen]
    return not missing and all(row.is_good for row in ordered)
