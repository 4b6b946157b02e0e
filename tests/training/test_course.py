"""The order of rows, and settings of others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ggprune.errors import UsageError
from ggprune.model.model import open_model
from ggprune.training.course import plan_course
from ggprune.training.memory import estimate_bytes
from ggprune.training.options import FULL_LR, LORA_LR, Precision, TrainOptions
from ggprune.training.recipes import RECIPES, find_recipe
from tests.conftest import FIXTURES

OPTIONS = TrainOptions(n_ctx=8, batch=32)  # four rows a step


def test_every_row_is_seen_once_an_epoch() -> None:
    course = plan_course(replace(OPTIONS, n_epoch=3.0), 20, 4, seed=5)
    assert course.n_step == 15
    seen = np.concatenate([course.rows(step) for step in range(course.n_step)]).reshape(3, 20)
    assert all(np.array_equal(np.sort(epoch), np.arange(20)) for epoch in seen)
    assert not np.array_equal(seen[0], seen[1])
    again = plan_course(replace(OPTIONS, n_epoch=3.0), 20, 4, seed=5)
    assert np.array_equal(again.rows(7), course.rows(7))
    assert not np.array_equal(plan_course(OPTIONS, 20, 4, seed=6).rows(0), course.rows(0))


def test_steps_may_lie_across_epochs() -> None:
    course = plan_course(replace(OPTIONS, n_token=8 * 4 * 5), 7, 4, seed=0)
    seen = np.concatenate([course.rows(step) for step in range(5)])
    assert np.array_equal(np.sort(seen[:7]), np.arange(7))
    assert np.array_equal(np.sort(seen[7:14]), np.arange(7))


def test_the_end_is_evaluated_and_a_few_places_before() -> None:
    course = plan_course(replace(OPTIONS, n_token=32 * 100), 50, 3, seed=0)
    places = [n for n in range(1, 101) if course.is_evaluated(n)]
    assert places[-1] == 100 and 5 <= len(places) <= 21


def test_learning_rates_that_are_not_said() -> None:
    assert TrainOptions().peak_lr == LORA_LR
    assert TrainOptions(lora=None).peak_lr == FULL_LR
    assert TrainOptions(lora=None, lr=3.0).peak_lr == 3.0


def test_steps_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="hold no row of 512"):
        TrainOptions(batch=100)
    with pytest.raises(UsageError, match="cannot be shared between 3 processes"):
        TrainOptions(batch=2048, n_process=3)


@pytest.mark.parametrize("name", list(RECIPES))
def test_recipes_are_options_and_documented(name: str) -> None:
    recipe = find_recipe(name)
    TrainOptions(**recipe.settings)  # type: ignore[arg-type]
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
    assert f"## {name}" in page and recipe.open.split(",")[0] in page


def test_an_unknown_recipe_lists_the_known() -> None:
    with pytest.raises(UsageError, match="modelopt, shortened-lora"):
        find_recipe("secret")


def test_full_training_takes_more_memory() -> None:
    model = open_model(FIXTURES / "tiny.gguf")
    keep = range(6)
    lora, full = (
        estimate_bytes(model, keep, TrainOptions(lora=rank), Precision.F32, 1) for rank in (8, None)
    )
    half = estimate_bytes(model, keep, TrainOptions(lora=8), Precision.BF16, 1)
    n_layer_param = sum(t.n_element for t in model.tensors if t.name.startswith("blk.")) * 6 // 9
    assert full - lora > 15 * n_layer_param - 16 * 8 * 10**5
    assert half < lora < full
