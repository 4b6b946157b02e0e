"""Results on stdout; nothing is put into words here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from ggprune.cli.streams import stdout_encoding
from ggprune.files.documents import to_text
from ggprune.report.blocks import Block, terminal

T = TypeVar("T")


def deliver(
    shown: Callable[[], object], *files: tuple[Path | None, Callable[[Path], object]]
) -> None:
    """Write the result of long work to files, and show it, whatever becomes of the files.

    Raises the error of the last one that fails.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(shown)
        for path, write in reversed(files):
            if path is not None:
                stack.callback(write, path)


def show(result: T, blocks: Callable[[T], Iterable[Block]], *, as_json: bool) -> None:
    """One JSON document, or what there is to say about the result."""
    text = to_text(result, stdout_encoding()) if as_json else terminal(blocks(result))
    print(text, end="")
