"""Blocks as a terminal shows them: a blank line between any two. Pictures are files."""

from __future__ import annotations

from collections.abc import Iterable

from ggprune.report.blocks import Block, Code, Figure, Heading, Table, Text
from ggprune.report.table import markdown_table


def terminal(blocks: Iterable[Block]) -> str:
    """The text with its last line break."""
    return "\n".join(_shown(block) for block in blocks if not isinstance(block, Figure))


def _shown(block: Heading | Table | Text | Code) -> str:
    match block:
        case Table(headers, rows, left):
            return f"{markdown_table(headers, rows, left)}\n"
        case Text(lines):
            return "".join(f"{line}\n" for line in lines)
        case _:
            return f"{block.text}\n"
