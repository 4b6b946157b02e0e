from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from ggprune.bench.cases import Case, Grid
from ggprune.bench.ratio import Wanted
from ggprune.bench.runner import Runner
from ggprune.bench.speed import Speed, Turns, benchmark, benchmark_cases
from ggprune.files.documents import encode_fields
from ggprune.progress import SILENT
from ggprune.report.bench import speed_table
from ggprune.report.blocks import terminal
from ggprune.runtime.compute import Compute
from tests.conftest import TINY
from tests.helpers import Steps


def test_models_are_measured_side_by_side() -> None:
    steps = Steps()
    result = benchmark(
        [TINY, TINY],
        n_prompt=40,
        n_gen=4,
        n_repeat=3,
        compute=Compute(n_threads=1),
        progress=steps,
    )
    assert [m.path for m in result.models] == [str(TINY)] * 2
    for model in result.models:
        assert [s.case.name for s in model.speeds] == ["pp40", "tg4"]
        assert all(len(s.samples_tok_per_s) == 3 for s in model.speeds)
        assert all(v > 0 for s in model.speeds for v in s.samples_tok_per_s)
        assert model.n_param == 3_805_952
        assert model.description.startswith("llama")
    assert steps.seen[-1] == (16, 16)
    assert result.hardware.descriptions
    table = terminal([speed_table(result)]).splitlines()
    assert len(table) == 2 + 4
    assert "| pp40 |" in table[2].replace("  ", " ")
    ours, theirs = (model.speeds[1].samples_tok_per_s for model in result.models)
    product = math.prod(a / b for a, b in zip(theirs, ours, strict=True))
    ratio = result.models[1].tests[1].ratio
    assert ratio is not None
    assert ratio.value == pytest.approx(product ** (1 / 3))
    assert f"{ratio.value:.3f}x (" in table[5]


def taken(times: Sequence[Sequence[int]], n_run: int, wanted: Wanted | None) -> list[int]:
    """How many repetitions of every model are taken, which would last so long one after another."""
    runs = [iter(own).__next__ for own in times]
    turns = Turns(len(runs), 0, n_run, SILENT, wanted)
    samples = turns.take([int] * len(runs), runs)
    turns.take_more(runs, samples)
    assert samples == [list(own[: len(got)]) for own, got in zip(times, samples, strict=True)]
    return [len(own) for own in samples]


def test_repetitions_go_on_until_ratios_are_known() -> None:
    steady, waves = [1000] * 100, [1000, 1100] * 50
    pair = Wanted(pairs=((1, 0),))
    assert taken([steady, steady], 3, pair) == [5, 5]
    assert taken([steady, steady], 7, pair) == [7, 7]
    assert taken([steady, waves], 5, None) == [5, 5]
    # deviation 0.048 of the logarithms: 2 t 0.048 / sqrt(n) < 0.03 from n = 42 on
    n_wave = taken([steady, waves], 5, pair)[0]
    assert 38 <= n_wave <= 46
    assert taken([waves, waves], 5, pair) == [5, 5]  # what slows down both cancels
    assert taken([steady, waves, steady], 5, Wanted(pairs=((2, 0),))) == [5, 5, 5]
    assert taken([steady, waves], 5, replace(pair, n_most=12)) == [12, 12]


def test_repetitions_end_when_their_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0, 10)  # seconds, each time that somebody looks
    monkeypatch.setattr("ggprune.bench.speed.time.monotonic", lambda: float(next(clock)))
    pair = Wanted(pairs=((1, 0),), most_s=45.0)
    # begins at 10; looks at 20, 30, 40 and 50 leave time for one more, that at 60 does not
    assert taken([[1000] * 100, [1000, 1100] * 50], 5, pair) == [9, 9]


def test_only_generating_is_repeated_more_often() -> None:
    never = Wanted(pairs=((1, 0),), width=0.0, n_most=7)
    one, two = benchmark([TINY, TINY], n_prompt=4, n_gen=2, n_repeat=2, wanted=never).models
    for model in (one, two):
        assert [len(test.samples_ns) for test in model.speeds] == [2, 7]
    ratio = two.tests[1].ratio
    assert ratio is not None
    assert ratio.n == 7


def test_tests_can_be_left_out() -> None:
    (model,) = benchmark([TINY], n_prompt=0, n_gen=2, n_repeat=1).models
    assert model.speed("pp") is None
    speed = model.speed("tg")
    assert speed is not None
    assert speed.stdev == 0
    (model,) = benchmark([TINY], n_prompt=0, n_gen=0).models
    assert model.speeds == ()
    assert model.n_param == 3_805_952


def test_mean_and_deviation_are_llama_benchs() -> None:
    speed = Speed(case=Case(0, 2), samples_ns=(2_000_000_000, 1_000_000_000, 666_666_667))
    assert speed.case.name == "tg2"
    assert speed.mean == pytest.approx(2)
    assert speed.stdev == pytest.approx(1)
    assert (speed.mean_ns, speed.stdev_ns) == (1_222_222_222, 693_888_666)
    assert encode_fields(speed)["avg_ts"] == speed.mean


def test_every_parameter_reaches_the_report() -> None:
    grid = Grid(
        n_prompt=(8,), n_gen=(0,), n_depth=(0, 16), n_batch=(32,), n_ubatch=(16,),
        type_k=("q8_0",), n_threads=(1,), n_gpu_layers=(0,), flash_attn=(True,),
    )  # fmt: skip
    result = benchmark_cases([TINY], grid.cases(), n_repeat=1, warmup=False)
    tests = [encode_fields(test) for test in result.models[0].tests]
    assert [test["test"] for test in tests] == ["pp8", "pp8 @ d16"]
    expected = {"n_batch": 32, "n_ubatch": 16, "type_k": "q8_0", "type_v": "f16", "n_threads": 1,
                "n_gpu_layers": 0, "flash_attn": 1, "ratio": None}  # fmt: skip
    for test in tests:
        assert {name: test[name] for name in expected} == expected


def test_a_depth_is_read_once_and_restored() -> None:
    """Behind the depth the context holds the depth, however it came there, and the test."""
    case = Case(0, 3, 40)
    with Runner(TINY, case.compute, seed=1) as runner:
        runner.open(case)
        for _ in range(2):
            runner.time_ns()
            assert runner.session is not None
            lib, handle = runner.session.lib, runner.session.handle
            memory = lib.llama_get_memory(handle)
            assert lib.llama_memory_seq_pos_max(memory, 0) == 40 + 3 - 1
            assert lib.llama_memory_seq_pos_min(memory, 0) == 0
        other = replace(case, compute=Compute(type_k="q8_0", flash_attn=True))
        runner.open(other)
        runner.time_ns()
        assert runner.buffers.caches[0].size_bytes < 1_174_405
