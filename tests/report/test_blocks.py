"""Blocks, and the two ways in which they are shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ggprune.errors import UsageError
from ggprune.report.blocks import (
    Block,
    Code,
    Figure,
    Heading,
    Table,
    Text,
    markdown,
    terminal,
)
from ggprune.report.whole import check_report, report_text

BLOCKS: tuple[Block, ...] = (
    Heading("A model", level=1),
    Text(("one line", "  and another")),
    Heading("Its layers"),
    Table(("layer", "kind"), (("0", "MoE"), ("1", "FFN")), left=(1,)),
    Figure("a picture", 6.0, ()),
    Code("a ``` b\n  c"),
)
TABLE = "| layer | kind |\n| ----: | ---- |\n|     0 | MoE  |\n|     1 | FFN  |\n"


def test_a_terminal_shows_text_alone() -> None:
    assert terminal(BLOCKS) == (
        f"A model\n\none line\n  and another\n\nIts layers\n\n{TABLE}\na ``` b\n  c\n"
    )


def test_markdown_has_headings_and_fences_that_hold() -> None:
    assert markdown(BLOCKS) == (
        f"# A model\n\none line\n  and another\n\n## Its layers\n\n{TABLE}\n"
        "````text\na ``` b\n  c\n````\n"
    )
    assert markdown([Code("plain")]) == "```text\nplain\n```\n"


@pytest.mark.parametrize("show", [terminal, markdown])
def test_blank_lines_stand_between_blocks(show: type) -> None:
    assert show([]) == ""
    assert show([Text(("a",)), Text(("b", "c"))]) == "a\n\nb\nc\n"
    assert show([Text(("a",)), Text(()), Text(("b",))]) == "a\n\n\nb\n"  # an empty paragraph
    assert show([Text(("a",)), Figure("a picture", 6.0, ())]) == "a\n"


def test_reports_are_written_by_their_suffix() -> None:
    document = {"a": 1}
    assert report_text(document, BLOCKS, Path("x.md")) == markdown(BLOCKS)
    assert json.loads(report_text(document, BLOCKS, Path("x.JSON"))) == document


def test_reports_of_a_kind_we_do_not_write() -> None:
    with pytest.raises(UsageError, match=r"\.html, \.json, \.md"):
        check_report(Path("report.txt"))
    with pytest.raises(UsageError, match=r"\.html, \.json, \.md"):
        report_text({}, (), Path("report.txt"))


NAME = "evil\x1b[2J\nlayers  1|2\u202e"


@pytest.mark.parametrize("show", [terminal, markdown])
def test_text_from_files_adds_no_line_no_column_and_no_control(show: type) -> None:
    table = Table(("a", "b"), ((NAME, "1"), ("x" * 100_000, "2")))
    blocks = (Heading(NAME), Text((f"name {NAME}", "next")), table, Code(f"a\n{NAME}"))
    shown = show(blocks)
    assert not set(shown) & {"\x1b", "\u202e"}
    lines = shown.splitlines()
    assert "name evil\\x1b[2J\\nlayers  1|2\\u202e" in lines
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 4
    assert all(len(row.replace("\\|", "").split("|")) == 4 for row in rows)
    assert len(shown) < 3000
    assert "layers  1|2\\u202e" in lines[-3:]  # what a model wrote has its lines
