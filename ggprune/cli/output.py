"""Results on stdout; nothing is put into words here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from ggprune.cli.streams import stdout_encoding
from ggprune.files.documents import to_text
from ggprune.report.blocks import Block, terminal

T = TypeVar("T")


def show(result: T, blocks: Callable[[T], Iterable[Block]], *, as_json: bool) -> None:
    """One JSON document, or what there is to say about the result."""
    text = to_text(result, stdout_encoding()) if as_json else terminal(blocks(result))
    print(text, end="")
