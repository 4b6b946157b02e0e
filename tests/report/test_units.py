from __future__ import annotations

import pytest

from ggprune.metrics.estimates import Estimate
from ggprune.report.blocks import markdown_table
from ggprune.report.plot import bars
from ggprune.report.units import count, estimate, number, size


def test_tables_are_markdown() -> None:
    assert markdown_table(("name", "n"), (("a", "1"), ("long name", "22"))) == (
        "| name      |   n |\n| --------- | --: |\n| a         |   1 |\n| long name |  22 |"
    )


def test_bars() -> None:
    assert bars([0.0, 1.0, 2.0], width=2) == ["", "█", "██"]
    small, large = bars([0.001, 10.0], width=8)  # logarithmic: the small one can still be seen
    assert 1 <= len(small) < len(large) == 8
    assert bars([0.0, 0.0]) == ["", ""]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (size(512), "512 B"),
        (size(7_653_952), "7.30 MiB"),
        (size(5 << 40), "5120.00 GiB"),
        (count(8_030_000_000), "8.03 B"),
        (count(124_440_000), "124.44 M"),
        (estimate(Estimate(6.40731, 0.03909, 9)), "6.4073 ± 0.0391"),
        (estimate(Estimate(float("inf"), 1, 9)), "inf"),
        (number(0.00001), "1.00e-05"),
        (number(0.0), "0.0000"),
        (number(12345678.0), "1.23e+07"),
    ],
)
def test_numbers_for_people(shown: str, expected: str) -> None:
    assert shown == expected
