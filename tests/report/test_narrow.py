"""Reports in narrow terminals: what is left out, what is stacked, what is wrapped."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest

from ggprune.report import auto, ranking
from ggprune.report.blocks import Block, Code, Heading, Table, Text, terminal
from ggprune.report.narrow import narrowed
from tests.pipeline.test_result import RANKING, RESULT

REPORT = Path(auto.__file__).parent
TABLE = Table(
    ("name", "size", "loss", "kind"), (("a", "10 MiB", "0.5", "good"), ("b", "9 MiB", "0.25", "-")),
    left=(0, 3), spare=("kind", "not there", "size"),
)  # fmt: skip


def shown(blocks: Iterable[Block], width: int) -> list[str]:
    return terminal(narrowed(blocks, width)).splitlines()


def test_what_fits_stays_as_it_is() -> None:
    blocks = (Heading("A"), TABLE, Text(("a  b", "c" * 33)), Code("d" * 50))
    widest = len("| name |   size | loss | kind |")
    assert tuple(narrowed(blocks[:2], widest)) == blocks[:2]
    assert terminal(narrowed(blocks, 40)) == terminal(blocks)


def test_columns_go_in_their_order_and_are_named() -> None:
    assert shown([TABLE], 30) == [
        "| name |   size | loss |",
        "| ---- | -----: | ---: |",
        "| a    | 10 MiB |  0.5 |",
        "| b    |  9 MiB | 0.25 |",
        "",
        "(left out: kind; --wide shows",
        "all columns)",
    ]
    assert " ".join(shown([TABLE], 23)[5:]) == "(left out: size, kind; --wide shows all columns)"
    assert shown([TABLE], 15)[:2] == ["| name | loss |", "| ---- | ---: |"]


def test_a_column_of_words_stays_one() -> None:
    table = Table(("n", "gone", "word"), (("1", "x" * 9, "w"),), left=(1, 2), spare=("gone",))
    assert shown([table], 15)[1] == "| --: | ---- |"


def test_rows_become_lists_where_columns_do_not_fit() -> None:
    assert shown([TABLE], 14) == [
        "name a", "  size  10 MiB", "  loss  0.5", "  kind  good",
        "name b", "  size  9 MiB", "  loss  0.25", "  kind  -",
    ]  # fmt: skip


def test_lines_are_wrapped_below_what_they_say() -> None:
    lines = (
        "note     one two three four",
        "plain words in a line",
        "/a/path/that-cannot-be/broken",
    )
    assert shown([Text(lines)], 20) == [
        "note     one two", "         three four", "plain words in a", "line",
        "/a/path/that-cannot-be/broken",
    ]  # fmt: skip
    assert shown([Text(("name \x1b[2J " * 3,))], 20) == [
        r"name \x1b[2J name", r"\x1b[2J name \x1b[2J",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_reports_fit(width: int) -> None:
    for blocks in (auto.blocks(RESULT), auto.report(RESULT), ranking.blocks(RANKING)):
        lines = shown(blocks, width)
        assert max(map(len, lines)) <= width
        assert any(line.startswith("| ") for line in lines)


def test_what_a_ranking_follows_stays() -> None:
    for width in (60, 80, 120):
        lines = shown(ranking.blocks(RANKING), width)
        head = next(line for line in lines if line.startswith("| layer"))
        assert "angular" in head
    assert "KLD without it" in "\n".join(shown(ranking.blocks(RANKING), 120))


@pytest.mark.parametrize("path", sorted(REPORT.glob("*.py")), ids=lambda path: path.name)
def test_spare_columns_are_columns(path: Path) -> None:
    """A name that is no header would never be left out."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    texts = [node.value for node in nodes if isinstance(node, ast.Constant)]
    for node in nodes:
        if isinstance(node, ast.keyword) and node.arg == "spare":
            spare = [each.value for each in ast.walk(node.value) if isinstance(each, ast.Constant)]
            assert all(texts.count(header) > 1 for header in spare), spare
