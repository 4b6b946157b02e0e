"""What a report leaves out, or sets otherwise, so that no line is longer than a terminal is wide.

A table loses the columns that it can spare, the least important first, and a line below it names
them. Where that is not enough each row becomes a list. What a model wrote stays as it is, and no
word is divided: a path can be copied.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import replace

from ggprune.files.printable import printable
from ggprune.report.blocks import Block, Table, Text, table_width

# What the rest of a line is set below: its indentation, and a word in front that is set apart.
HANGING = re.compile(r" *(\S+(?: \S+)? {2,})?")


def narrowed(blocks: Iterable[Block], width: int) -> Iterator[Block]:
    for block in blocks:
        match block:
            case Table():
                yield from _table(block, width)
            case Text():
                yield _text(block, width)
            case _:
                yield block


def _table(table: Table, width: int) -> Iterator[Block]:
    spare = [header for header in table.spare if header in table.headers]
    for n_out in range(len(spare) + 1):
        fitting = _without(table, spare[:n_out])
        if table_width(fitting) <= width:
            yield fitting
            if n_out:
                out = [header for header in table.headers if header in spare[:n_out]]
                note = f"(left out: {', '.join(out)}; --wide shows all columns)"
                yield _text(Text((note,)), width)
            return
    yield _text(Text(tuple(_stacked(table))), width)


def _without(table: Table, out: Iterable[str]) -> Table:
    kept = [i for i, header in enumerate(table.headers) if header not in out]
    return replace(
        table,
        headers=tuple(table.headers[i] for i in kept),
        rows=tuple(tuple(row[i] for i in kept) for row in table.rows),
        left=tuple(n for n, i in enumerate(kept) if i in table.left),
    )


def _stacked(table: Table) -> Iterator[str]:
    """Every row as a list of what is in its columns."""
    first, *others = table.headers
    widest = max(map(len, others), default=0)
    for row in table.rows:
        yield f"{first} {row[0]}"
        for header, cell in zip(others, row[1:], strict=True):
            yield f"  {header:{widest}}  {cell}"


def _text(text: Text, width: int) -> Text:
    return Text(tuple(part for line in text.lines for part in _wrapped(printable(line), width)))


def _wrapped(line: str, width: int) -> list[str]:
    if len(line) <= width:
        return [line]
    hanging = HANGING.match(line)
    assert hanging is not None
    indent = hanging.end() if hanging.end() <= width // 2 else 2
    return textwrap.wrap(
        line, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )
