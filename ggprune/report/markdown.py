"""Blocks as Markdown. Pictures are files of their own."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ggprune.report.blocks import Block, Code, Figure, Heading, Table, Text
from ggprune.report.table import markdown_table


def markdown(blocks: Iterable[Block]) -> str:
    """The document with its last line break."""
    return "\n".join(_written(block) for block in blocks if not isinstance(block, Figure))


def _written(block: Heading | Table | Text | Code) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}\n"
        case Table(headers, rows, left):
            return f"{markdown_table(headers, rows, left)}\n"
        case Text(lines):
            return "".join(f"{line}\n" for line in lines)
        case Code(text):
            return _fenced(text)


def _fenced(text: str) -> str:
    """Shown unchanged, whatever is in it: the fence is longer than any in the text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}\n"
