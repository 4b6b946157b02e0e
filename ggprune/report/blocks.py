"""What a report says, without how it is shown.

`blocks(result)` of the other modules makes these; `terminal` and `markdown` show them, and another
way to show reports needs nothing but a third such function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Heading:
    """A title, or the name of a part."""

    text: str
    level: int = 2  # 1: of the whole report


@dataclass(frozen=True)
class Table:
    """Rows of cells; the columns in `left` hold words, the others numbers."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Text:
    """Lines that stay lines; they may be aligned by spaces. None at all: an empty paragraph."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """What a model wrote or read: nothing in it means anything to the report."""

    text: str


@dataclass(frozen=True)
class Panel:
    """A part of a figure."""

    draw: Callable[[Axes], object]
    height: float


@dataclass(frozen=True)
class Figure:
    """A picture of panels below each other, in inches. It is drawn when it is written."""

    title: str
    width: float
    panels: tuple[Panel, ...]


Block: TypeAlias = Heading | Table | Text | Code | Figure
