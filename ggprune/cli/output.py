"""Results on stdout and in reports; nothing is put into words here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from ggprune.files.documents import to_text
from ggprune.report.blocks import Block
from ggprune.report.terminal import terminal

T = TypeVar("T")


def show(result: T, blocks: Callable[[T], Iterable[Block]], *, as_json: bool) -> None:
    """One JSON document, or what there is to say about the result."""
    show_text(to_text(result) if as_json else terminal(blocks(result)))


def show_text(text: str) -> None:
    """A text that has its line breaks."""
    print(text, end="")
