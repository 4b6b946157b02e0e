"""On every architecture: exact, or refused before writing. Never silently wrong.

Here a few sets of each model; `make test-archs` tries all and prints the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ggprune.arch.architecture import architecture_of
from ggprune.arch.change import Change
from ggprune.errors import ArchitectureError
from ggprune.model.cut import Cut
from ggprune.model.model import Model
from ggprune.surgery.plan import PrunePlan
from tests.arch.exactness import ROUNDING, Checker, Loaded
from tests.arch.families import FAMILIES, METADATA, Family, alone_sets, half_shifts
from tests.helpers import pruned_copy

REFUSED = {"hrm_text"}
N_SET = 1  # of each model: two layers apart


def family(name: str) -> Family:
    return next(f for f in FAMILIES if f.name == name)


def test_the_families_cover_the_metadata() -> None:
    assert len(METADATA) == 65
    assert {f.name for f in FAMILIES} >= set(METADATA)
    assert len({f.name for f in FAMILIES}) == len(FAMILIES)


@pytest.mark.parametrize("case", FAMILIES, ids=lambda case: case.name)
def test_exact_or_refused(case: Family, tmp_path: Path) -> None:
    model = case.make(tmp_path)
    if case.name in REFUSED:
        with pytest.raises(ArchitectureError, match="used several times"):
            architecture_of(model)
        return
    checker = Checker(model, tmp_path)
    outcomes = [checker.check(drop) for drop in case.all_sets(model)[:N_SET]]
    assert [o for o in outcomes if o.verdict == "wrong"] == []
    if case.frozen:
        assert {o.verdict for o in outcomes} == {"refused"}


# Plain layers, windows, experts in some layers, recurrent ones, scales by depth, parallel halves.
SHIFTED = {
    "llama": "exact", "gemma3": "exact", "deepseek with dense layers": "exact", "jamba": "exact",
    "qwen35": "exact", "minicpm3": "rounded", "smollm3": "exact", "cohere2": "refused",
    "gptneox": "exact", "falcon": "refused", "mamba": "refused",
}  # fmt: skip


@pytest.mark.parametrize(("name", "verdict"), SHIFTED.items())
def test_runs_of_units_are_exact_or_refused(name: str, verdict: str, tmp_path: Path) -> None:
    model = family(name).make(tmp_path)
    checker = Checker(model, tmp_path)
    assert {checker.check_cut(cut).verdict for cut in half_shifts(model)[1:3]} == {verdict}


# Attentions and FFNs: as a deci, as a step35, as it is. The others are of `make test-archs`.
ALONE = {
    "llama without experts": ("exact", "exact"), "baichuan 32 layers": ("exact", "exact"),
    "qwen3moe": ("exact", "exact"), "seed_oss": ("exact", "exact"), "mimo2": ("exact", "exact"),
    "laguna": ("exact", "refused"), "hy_v3 with MTP": ("refused", "exact"),
    "gemma4 shared KV": ("refused", "refused"), "qwen2vl": (),
}  # fmt: skip


@pytest.mark.parametrize(("name", "verdicts"), ALONE.items())
def test_halves_alone_are_exact_or_refused(
    name: str, verdicts: tuple[str, ...], tmp_path: Path
) -> None:
    model = family(name).make_plain(tmp_path)
    checker = Checker(model, tmp_path)
    sets = alone_sets(model).values()
    assert tuple(checker.check_cut(cuts[0]).verdict for cuts in sets) == verdicts


@pytest.mark.parametrize("name", ["gemma3", "cohere2moe", "olmo2", "mellum", "granite_swa"])
def test_a_pattern_that_is_not_shifted_would_be_noticed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check is strong enough: with the window pattern left as it was, logits differ."""
    model = family(name).make(tmp_path)
    key = f"{model.arch}.attention.sliding_window_pattern"
    _check_stale(
        model,
        tmp_path,
        monkeypatch,
        lambda c: replace(c, values={k: v for k, v in c.values.items() if k != key}),
    )


@pytest.mark.parametrize("name", ["minicpm3", "gemma2 46 layers", "gemma3 62 layers"])
def test_weights_that_are_not_rescaled_would_be_noticed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to rounding is far from what a forgotten factor would do."""
    model = family(name).make(tmp_path)
    _check_stale(model, tmp_path, monkeypatch, lambda c: replace(c, edits={}, added={}))


def _check_stale(
    model: Model, folder: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Change], Change]
) -> None:
    right, checker = PrunePlan.change, Checker(model, folder)
    monkeypatch.setattr(PrunePlan, "change", lambda plan, m, **_: spoil(right(plan, m)))
    wrong = pruned_copy(model, (3,), folder / "wrong.gguf")
    stale = Loaded(wrong.path, checker.tokens).logits({}, {})
    difference = np.abs(stale - checker.predict(Cut.of([3]))).max() / stale.std()
    assert difference > 1.5 * ROUNDING
