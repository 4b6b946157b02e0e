"""What a report says, and how a terminal and Markdown show it: a blank line between any two blocks.

`blocks(result)` of the other modules makes these without knowing how they are shown; another way to
show them needs a third function, nothing else. Whatever text is in them, each of their lines and
cells stays one: names come from files. Pictures are files of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from ggprune.files.printable import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELL_CHARS = 300
T = TypeVar("T")
Column: TypeAlias = tuple[str, Callable[[T], object]]  # its header, and what a row has in it


@dataclass(frozen=True)
class Heading:
    """A title, or the name of a part."""

    text: str
    level: int = 2  # 1: of the whole report


@dataclass(frozen=True)
class Table:
    """Rows of cells; the columns in `left` hold words, the others numbers. Where there is no room
    for all of them, those in `spare` are left out, the first one first.
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: tuple[int, ...] = (0,)
    spare: tuple[str, ...] = ()  # headers; also of columns that are not always there


@dataclass(frozen=True)
class Text:
    """Lines that stay lines; they may be aligned by spaces. None at all: an empty paragraph."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """What a model wrote or read: nothing in it means anything to the report."""

    text: str


@dataclass(frozen=True)
class Figure:
    """A picture of panels below each other, in inches. It is drawn when it is written."""

    title: str
    width: float
    panels: tuple[tuple[Callable[[Axes], object], float], ...]  # what draws each, and its height


Block: TypeAlias = Heading | Table | Text | Code | Figure


def table_of(
    items: Iterable[T], *columns: Column[T], left: tuple[int, ...] = (0,),
    spare: tuple[str, ...] = (),
) -> Table:  # fmt: skip
    """A table with a row for each item; there is a dash where a column has None for it."""
    values = ([cell(item) for _, cell in columns] for item in items)
    rows = (tuple("-" if value is None else str(value) for value in row) for row in values)
    return Table(tuple(header for header, _ in columns), tuple(rows), left, spare)


def terminal(blocks: Iterable[Block]) -> str:
    """The text with its last line break."""
    return "\n".join(_plain(block) for block in blocks if not isinstance(block, Figure))


def markdown(blocks: Iterable[Block]) -> str:
    """The document with its last line break."""
    return "\n".join(_marked_up(block) for block in blocks if not isinstance(block, Figure))


def _plain(block: Heading | Table | Text | Code) -> str:
    match block:
        case Table():
            return f"{_lines(block)}\n"
        case Text(lines):
            return "".join(f"{printable(line)}\n" for line in lines)
        case Heading(text):
            return f"{printable(text)}\n"
        case Code(text):
            return f"{_code(text)}\n"


def _marked_up(block: Heading | Table | Text | Code) -> str:
    match block:
        case Heading(_, level):
            return f"{'#' * level} {_plain(block)}"
        case Code(text):  # the fence is longer than any in the text
            fence = "`" * (max([2, *map(len, re.findall("`+", text))]) + 1)
            return f"{fence}text\n{_code(text)}\n{fence}\n"
        case _:
            return _plain(block)


def _lines(table: Table) -> str:
    cells = [[_cell(text) for text in row] for row in table.rows]
    return markdown_table(table.headers, cells, table.left)


def table_width(table: Table) -> int:
    """Of its lines, in characters."""
    return _lines(table).index("\n")


def _cell(text: str) -> str:
    return printable(text, CELL_CHARS).replace("|", "\\|")


def _code(text: str) -> str:
    """All of it, with its line breaks."""
    return printable(text, None, keep="\n\t")


def markdown_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)
) -> str:
    """Columns padded to equal width; those in `left` are left-aligned, the others right."""
    columns = []
    for i, cells in enumerate(zip(headers, *rows, strict=True)):
        width = max(3, *map(len, cells))
        rule = "-" * width if i in left else "-" * (width - 1) + ":"
        padded = [cell.ljust(width) if i in left else cell.rjust(width) for cell in cells]
        columns.append((padded[0], rule, *padded[1:]))
    return "\n".join("| " + " | ".join(line) + " |" for line in zip(*columns, strict=True))
