from __future__ import annotations

from pathlib import Path

import pytest

from ggprune.errors import UsageError
from ggprune.metrics.estimates import Estimate
from ggprune.metrics.text import read_text
from ggprune.model import Model
from ggprune.report.document import check_report
from ggprune.report.jsontext import to_json
from ggprune.report.plot import plot_ranking
from ggprune.report.table import bars, markdown_table
from ggprune.report.units import count, estimate, number, size
from tests.conftest import CALIBRATION
from tests.scoring.ranked import ranked


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


def test_json_has_no_infinity() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"a": float("nan")})


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_plots(tiny: Model, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"plot.{suffix}"
    plot_ranking(ranked(tiny, read_text(CALIBRATION), n_ctx=32, n_chunk=2), path)
    magic = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert path.read_bytes().startswith(magic[suffix])


def test_reports_of_a_kind_we_do_not_write() -> None:
    with pytest.raises(UsageError, match=r"\.json or \.md"):
        check_report(Path("report.html"))
