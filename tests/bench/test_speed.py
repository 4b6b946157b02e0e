from __future__ import annotations

import math

import pytest

from ggprune.bench import Speed, benchmark
from ggprune.report.render import render_benchmark
from tests.conftest import TINY


def test_models_are_measured_side_by_side() -> None:
    seen: list[tuple[int, int]] = []
    result = benchmark(
        [TINY, TINY], n_prompt=40, n_gen=4, n_repeat=3, progress=lambda *step: seen.append(step)
    )
    assert [m.path for m in result.models] == [str(TINY)] * 2
    for model in result.models:
        assert [s.test for s in model.speeds] == ["pp40", "tg4"]
        assert all(len(s.samples_tok_per_s) == 3 for s in model.speeds)
        assert all(v > 0 for s in model.speeds for v in s.samples_tok_per_s)
        assert model.n_param == 3_805_952
        assert model.description.startswith("llama")
    assert seen[-1] == (16, 16)
    assert result.devices
    table = render_benchmark(result).splitlines()
    assert len(table) == 2 + 4
    assert "| pp40 |" in table[2].replace("  ", " ")


def test_tests_can_be_left_out() -> None:
    (model,) = benchmark([TINY], n_prompt=0, n_gen=2, n_repeat=1).models
    assert model.speed("pp") is None
    speed = model.speed("tg")
    assert speed is not None
    assert speed.stdev == 0


def test_mean_and_deviation_are_llama_benchs() -> None:
    speed = Speed("tg2", (1.0, 2.0, 3.0))
    assert speed.mean == 2
    assert speed.stdev == pytest.approx(1)
    assert math.isclose(speed.to_json()["avg_ts"], 2)
