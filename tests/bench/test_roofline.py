from __future__ import annotations

import pytest

from ggprune.bench.cases import Case
from ggprune.bench.roofline import make_roofline, measure_bandwidth
from ggprune.bench.speed import Benchmark, Machine, ModelSpeed, Speed, compared
from ggprune.files.documents import encode_fields
from ggprune.report.bench import roofline_blocks
from ggprune.report.blocks import terminal
from ggprune.runtime.buffers import Cache

MACHINE = Machine("CPU", (), 2, "abc")


def made_up(*tok_per_s: float, n_depth: int = 0, n_gen: int = 1) -> Benchmark:
    """Models with a cache of 10 bytes per cell, at these speeds."""
    models: list[ModelSpeed] = []
    for i, speed in enumerate(tok_per_s):
        cases = (Case(512, 0), Case(0, n_gen, n_depth))
        ns = [round(1e9 * case.n_token / speed) for case in cases]
        caches = (Cache(10_000, 1000),)
        speeds = [
            Speed(case=c, samples_ns=(t, t), caches=caches) for c, t in zip(cases, ns, strict=True)
        ]
        tests = compared(speeds, models[0].speeds if models else None)
        models.append(
            ModelSpeed(path=f"{i}.gguf", description="llama", size_bytes=1, n_param=1, tests=tests)
        )
    return Benchmark(tuple(models), MACHINE, {})


def test_bytes_over_bandwidth() -> None:
    """9 tokens behind 95: in the middle 100 are in the cache, the new one included."""
    result = made_up(1.0, 1.9, n_depth=95, n_gen=9)
    first, second = make_roofline(result, (9000, 4000), 20_000.0).roofs
    assert (first.weight_bytes, first.cache_bytes) == (9000, 1000)
    assert first.weight_bytes + first.cache_bytes == 10_000
    assert first.predicted == 2.0
    assert second.predicted == 4.0
    assert second.predicted_speedup == 2.0
    assert second.measured_speedup == pytest.approx(1.9)
    assert not first.is_short
    assert not second.is_short


def test_a_speedup_far_below_the_promise_is_flagged() -> None:
    roofline = make_roofline(made_up(1.0, 1.69, 1.71), (9990, 4990, 4990), None)
    assert [roof.is_short for roof in roofline.roofs] == [False, True, False]
    assert [roof.predicted for roof in roofline.roofs] == [None] * 3
    text = terminal(roofline_blocks(roofline))
    assert "roof t/s" in text
    assert text.count(" !") == 1
    assert text.endswith("! less than 85 % of the predicted speed-up\n")
    assert encode_fields(roofline.roofs[1])["short"] is True


def test_bandwidth_is_that_of_a_memory() -> None:
    assert 1e8 < measure_bandwidth(2, 64 << 20) < 1e14
