"""The sentences that `auto` ends with: what they say of numbers that are known, and of noise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ggprune.bench.cases import Case
from ggprune.bench.ratio import Ratio
from ggprune.bench.speed import Speed
from ggprune.metrics.estimates import Estimate
from ggprune.pipeline.result import FrontRow, JudgedText, Row, Verdict, verdict_of
from ggprune.report.auto import blocks, compared_speed
from ggprune.report.blocks import terminal
from ggprune.scoring.target import Goal, Target
from tests.files.test_round_trips import TEXT
from tests.pipeline.test_result import CHOICE, POINT, RESULT, ROW

NARROW = Ratio(value=1.5, low=1.49, high=1.51, n=5)


def timed(*tok_per_s: float) -> Speed:
    return Speed(case=Case(0, 100), samples_ns=tuple(round(1e11 / speed) for speed in tok_per_s))


def row(name: str, size_bytes: int, kld: float, tg: Speed, *, n_layer: int = 4) -> Row:
    return replace(
        ROW, name=name, size_bytes=size_bytes, kld=Estimate(kld, 0.001), tg=tg, n_layer=n_layer,
        predicted_speedup=9 / size_bytes,
    )  # fmt: skip


def said(verdict: Verdict | None) -> str:
    return terminal(blocks(replace(RESULT, verdict=verdict)))


@pytest.mark.parametrize(
    ("ratio", "sentence"),
    [
        (NARROW, "Pruning generates at 1.500x (1.490 - 1.510) the speed of it"),
        (
            Ratio(value=1.4, low=0.8, high=2.45, n=30),
            "No difference in the speed of generating was measured: 1.400x (0.800 - 2.450), "
            "not known to 3 % after 30 repetitions",
        ),
        (
            Ratio(value=1.0, low=0.99, high=1.01, n=8),
            "No difference in the speed of generating was measured: 1.000x (0.990 - 1.010)",
        ),
        (
            Ratio(value=0.7, low=0.6, high=0.8, n=100),
            "Pruning generates at 0.700x (0.600 - 0.800) the speed of it, not known to 3 % after "
            "100 repetitions",
        ),
        (
            Ratio(value=1.4, low=None, high=None, n=1),
            "Pruning generates at 1.400x the speed of it, measured once",
        ),
    ],
)
def test_a_difference_is_said_where_one_was_measured(ratio: Ratio, sentence: str) -> None:
    assert compared_speed(ratio, None) == f"{sentence}."
    assert compared_speed(ratio, 1.25) == f"{sentence}; 1.250x is predicted by the bytes read."


def test_a_base_that_was_disturbed_decides_nothing() -> None:
    """Means say 1.46 times as fast; turn by turn it may have been slower, too."""
    rival = row("Q3_K_S", 2, 0.01, timed(50, 20, 49, 21, 51))
    result = row("pruned", 3, 0.02, timed(52, 61, 50, 60, 55), n_layer=2)
    verdict = verdict_of((row("base", 9, 0.0, timed(30, 30, 30, 30, 30)), rival, result))
    assert verdict is not None
    assert verdict.rival == "Q3_K_S"
    assert verdict.predicted_speedup == pytest.approx(2 / 3)
    assert result.tg is not None and rival.tg is not None
    assert result.tg.mean / rival.tg.mean > 1.4
    product = (52 * 61 * 50 * 60 * 55) / (50 * 20 * 49 * 21 * 51)
    assert verdict.speedup is not None
    assert verdict.speedup.value == pytest.approx(product ** (1 / 5))
    assert verdict.speedup.is_above(1.0) is None
    shown = said(verdict)
    assert "No difference in the speed of generating was measured" in shown
    assert "0.667x is predicted by the bytes read." in shown


def test_the_rival_is_the_best_that_is_no_larger_and_whole() -> None:
    speed = timed(10, 10)
    base, large = row("base", 9, 0.0, speed), row("Q8_0", 5, 0.001, speed)
    small, smaller = row("Q3", 3, 0.01, speed), row("Q2", 2, 0.3, speed)
    plain, result = (row(name, 3, 0.05, speed, n_layer=2) for name in ("pruned", "healed"))
    verdict = verdict_of((base, large, small, smaller, plain, result))
    assert verdict is not None
    assert verdict.rival == "Q3"
    assert verdict_of((base, large, plain, result)) is None
    assert "At no more bytes" not in said(None)


@pytest.mark.parametrize(
    ("loss", "rival", "said_of_it"),
    [
        ((0.05, 0.001), (0.01, 0.001), "'Q3' loses less than pruning: KLD 0.0100 ± 0.0010 against"),
        ((0.01, 0.001), (0.05, 0.001), "'Q3' loses more than pruning: KLD 0.0500 ± 0.0010 against"),
        ((0.02, 0.002), (0.017, 0.002), "'Q3' and pruning lose the same, as far as is known: KLD"),
    ],
)
def test_losses_within_their_errors_are_no_verdict(
    loss: tuple[float, float], rival: tuple[float, float], said_of_it: str
) -> None:
    verdict = Verdict(
        rival="Q3", kld=Estimate(*loss), rival_kld=Estimate(*rival), speedup=None,
        predicted_speedup=None,
    )  # fmt: skip
    assert f"At no more bytes, {said_of_it}" in said(verdict)


@pytest.mark.parametrize(
    ("target", "kept"), [(1.4, "reached"), (1.6, "not reached"), (1.505, "not decided")]
)
def test_a_target_within_the_interval_is_not_decided(target: float, kept: str) -> None:
    result = replace(
        RESULT, target=Target(Goal.SPEEDUP, target), front=(FrontRow(POINT, timed(2), NARROW),)
    )
    line = f"{kept}, 1.500x (1.490 - 1.510) measured, 1.250x predicted."
    assert f"--target-speedup {target:g}: {line}" in terminal(blocks(result))


def test_how_much_of_the_text_was_judged_on() -> None:
    assert CHOICE.best is POINT
    for n_whole, chunks in ((3, "3 chunks"), (938, "3 of 938 chunks")):
        text = JudgedText(**vars(TEXT), n_chunk_whole=n_whole)
        shown = terminal(blocks(replace(RESULT, evaluation_text=text)))
        assert f"judged on a.txt ({chunks}, 765 tokens scored)" in shown
